package cluster

import (
	"context"
	"net/http"
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

// givenUp are what a Service can do without, by what the API server says when it can't have it.
func givenUp() map[string][]string {
	return map[string][]string{
		"spec.clusterIP":           {"/spec/clusterIP", "/spec/clusterIPs", "/spec/ipFamilies"},
		"spec.ipFamil":             {"/spec/clusterIP", "/spec/clusterIPs", "/spec/ipFamilies"},
		".nodePort":                {"/spec/ports/*/nodePort"},
		"spec.healthCheckNodePort": {"/spec/healthCheckNodePort"},
		"healthCheckNodePort":      {"/spec/healthCheckNodePort"},
	}
}

// createWithAddresses creates an object. A Service whose address or port is taken, or not of this
// cluster's range, gets another one.
func (r *replay) createWithAddresses(ctx context.Context, w *want) (Object, error) {
	living, err := r.create(ctx, w)
	if w.key.Group != "" || w.key.Resource != "services" {
		return living, err
	}
	for range givenUp() { // each try gives up one thing more
		if statusCode(err) != http.StatusUnprocessableEntity && statusCode(err) != http.StatusInternalServerError || !r.giveUp(w, err) {
			break
		}
		living, err = r.create(ctx, w)
	}
	return living, err
}

// giveUp removes what a Service can't have. A headless Service has no address: that is a choice.
func (r *replay) giveUp(w *want, refused error) bool {
	headless := w.object.text("spec", "clusterIP") == "None"
	for says, fields := range givenUp() {
		if !strings.Contains(refused.Error(), says) {
			continue
		}
		before := Digest(w.object)
		for _, field := range fields {
			if !headless || field == "/spec/ipFamilies" {
				removePointer(w.object, field)
			}
		}
		if Digest(w.object) != before {
			r.note(Changed, w.Key(), "another one was given for what it had: "+refusal(refused))
			return true
		}
	}
	return false
}
