package cluster

import (
	"context"
	"net/http"
	"regexp"
	"strings"
)

// keepAddresses gives a Service the addresses and ports it had: clients, firewalls and load balancers
// may know them.
func keepAddresses(wanted, captured Object) {
	spec, whole := wanted["spec"].(map[string]any)
	if !whole {
		return
	}
	for _, field := range []string{"clusterIP", "clusterIPs", "ipFamilies", "healthCheckNodePort"} {
		if value := at(captured, "spec", field); value != nil {
			spec[field] = value
		}
	}
	ports, _ := spec["ports"].([]any)
	before, _ := at(captured, "spec", "ports").([]any)
	for i, port := range ports {
		if number := at(before[i], "nodePort"); number != nil {
			port.(map[string]any)["nodePort"] = number
		}
	}
}

// withoutAddresses is a copy that leaves a Service the addresses and ports that it has in the cluster. One
// that becomes headless, or ceases to be so, can't have what it has.
func withoutAddresses(key Key, o, living Object) Object {
	copied := clone(o).(Object)
	if key.Group == "" && key.Resource == "services" && headless(o) == headless(living) {
		for _, field := range []string{"/spec/clusterIP", "/spec/clusterIPs", "/spec/ipFamilies", "/spec/ports/*/nodePort", "/spec/healthCheckNodePort"} {
			giveUpField(copied, field)
		}
	}
	return copied
}

// giveUpField removes a field. That a headless Service has no address is a choice, and stays.
func giveUpField(service Object, pointer string) {
	if !headless(service) || !strings.HasPrefix(pointer, "/spec/clusterIP") {
		removePointer(service, pointer)
	}
}

func headless(service Object) bool { return service.text("spec", "clusterIP") == "None" }

// refusedPort finds the port that a refusal speaks of.
var refusedPort = regexp.MustCompile(`spec\.ports\[(\d+)\]\.nodePort`)

// givenUp are the fields that a Service can do without, of those that a refusal speaks of.
func givenUp(refused error) []string {
	text := refused.Error()
	switch port := refusedPort.FindStringSubmatch(text); {
	case port != nil:
		return []string{"/spec/ports/" + port[1] + "/nodePort"}
	case strings.Contains(text, "nodePort"):
		return []string{"/spec/ports/*/nodePort"}
	case strings.Contains(text, "ealthCheckNodePort"):
		return []string{"/spec/healthCheckNodePort"}
	case strings.Contains(text, "spec.clusterIP"), strings.Contains(text, "spec.ipFamil"):
		return []string{"/spec/clusterIP", "/spec/clusterIPs", "/spec/ipFamilies"}
	}
	return nil
}

// createWithAddresses creates an object. A Service whose address or port is taken, or not of this
// cluster's range, gets another one.
func (r *replay) createWithAddresses(ctx context.Context, w *want) (Object, error) {
	for {
		living, err := r.create(ctx, w)
		if w.key.Group != "" || w.key.Resource != "services" || statusCode(err) != http.StatusUnprocessableEntity || !r.giveUp(w, err) {
			return living, err
		}
	}
}

// giveUp removes what a Service can't have; it reports false when there is nothing more to remove.
func (r *replay) giveUp(w *want, refused error) bool {
	before := Digest(w.object)
	for _, field := range givenUp(refused) {
		giveUpField(w.object, field)
	}
	if Digest(w.object) == before {
		return false
	}
	r.note(Changed, w.Key(), "another one was given for what it had: "+refusal(refused))
	return true
}
