// Command webhook is an admission webhook that allows everything but widgets of size 666. The lab
// runs it in a pod, behind a configuration with failurePolicy Fail.
package main

import (
	"encoding/json"
	"log"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func main() {
	http.HandleFunc("/validate", validate)
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	log.Fatal(http.ListenAndServeTLS(":8443", "/tls/tls.crt", "/tls/tls.key", nil))
}

func validate(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "want an AdmissionReview", http.StatusBadRequest)
		return
	}
	var widget struct {
		Spec struct {
			Size int `json:"size"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(review.Request.Object.Raw, &widget); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: widget.Spec.Size != 666}
	if !review.Response.Allowed {
		review.Response.Result = &metav1.Status{Message: "666 is not a size"}
	}
	review.Request = nil
	if err := json.NewEncoder(w).Encode(review); err != nil {
		log.Print(err)
	}
}
