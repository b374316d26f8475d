package cluster

import (
	"regexp"
	"slices"
	"strings"
)

// adjustment is a rule for what no pointer can name: it takes out of an object what has a meaning in
// the captured cluster alone. It is done to both sides of a comparison, too.
type adjustment struct {
	Rule
	change func(Object)
}

// adjustments are made to objects on their way into another cluster.
func adjustments() []adjustment {
	return []adjustment{
		{Rule{Group: "core", Resource: "serviceaccounts", Reason: "names of tokens and pull secrets that each cluster makes"}, dropIssued},
		{Rule{Group: "build.openshift.io", Resource: "buildconfigs", Reason: "pull secrets that each cluster makes"}, dropIssuedPulls},
		{Rule{Group: "route.openshift.io", Resource: "routes", Reason: "a host that the router of the captured cluster made up"}, dropGeneratedHost},
		{Rule{Group: "image.openshift.io", Resource: "imagestreams", Reason: "the captured cluster's own registry"}, dropOwnRegistry},
	}
}

func adjust(key Key, o Object) {
	for _, a := range adjustments() {
		if a.matches(key) {
			a.change(o)
		}
	}
}

// issuedNames are those of Secrets that controllers make for an account: "default-token-x7k2p".
var issuedNames = regexp.MustCompile(`^(.+)-(token|dockercfg)-[a-z0-9]{5}$`)

// issuedFor is the account for which a controller made a Secret of the name, empty for other names.
func issuedFor(secret string) string {
	found := issuedNames.FindStringSubmatch(secret)
	if found == nil {
		return ""
	}
	return found[1]
}

// dropIssued takes the Secrets that a controller made for an account out of its lists.
func dropIssued(account Object) {
	for _, field := range []string{"secrets", "imagePullSecrets"} {
		list, _ := account[field].([]any)
		kept := slices.DeleteFunc(slices.Clone(list), func(entry any) bool {
			name, _ := at(entry, "name").(string)
			return issuedFor(name) == account.name()
		})
		account[field] = kept
		if len(kept) == 0 {
			delete(account, field)
		}
	}
	remove(account, "metadata", "annotations", "openshift.io/internal-registry-pull-secret-ref")
}

func dropIssuedPulls(build Object) {
	spec, _ := build["spec"].(map[string]any)
	dropIn := func(holder any) {
		for _, field := range []string{"pushSecret", "pullSecret"} {
			name, _ := at(holder, field, "name").(string)
			if issuedFor(name) != "" {
				delete(holder.(map[string]any), field)
			}
		}
	}
	dropIn(spec["output"])
	strategies, _ := spec["strategy"].(map[string]any)
	for _, strategy := range strategies {
		dropIn(strategy)
	}
}

const generatedHost = "openshift.io/host.generated"

func dropGeneratedHost(route Object) {
	if value, _ := route.annotation(generatedHost); value == "true" {
		remove(route, "spec", "host")
		remove(route, "metadata", "annotations", generatedHost)
	}
}

func dropOwnRegistry(stream Object) {
	remove(stream, "metadata", "annotations", "openshift.io/image.dockerRepositoryCheck")
	for _, registry := range []string{"image-registry.openshift-image-registry.svc", "docker-registry.default.svc"} {
		if strings.HasPrefix(stream.text("spec", "dockerImageRepository"), registry) {
			remove(stream, "spec", "dockerImageRepository")
		}
	}
}
