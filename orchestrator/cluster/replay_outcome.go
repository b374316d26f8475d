package cluster

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/providers/fault"
)

// OutcomesPath is where a replay's outcomes stand in its receipt's tree.
const OutcomesPath = "outcomes.jsonl"

// Result is what became of one object of a replay.
type Result string

// The results.
const (
	Created   Result = "created"
	Present   Result = "present"   // stood there already, with the same content
	Updated   Result = "updated"   // stood there, and has the captured fields now beside its own others
	Replaced  Result = "replaced"  // stood there, and has the captured content now
	Recreated Result = "recreated" // stood there, was deleted and created with the captured content
	Kept      Result = "kept"      // stands there with other content, as the plan wants it
	Passed    Result = "passed"    // not for another cluster, or left to somebody else: see the message
	Failed    Result = "lost"      // does not come back
	Pruned    Result = "pruned"    // stood there, is not in the recovery point, and was deleted as the plan wants it
)

// Reason says in one word why an object was not simply created.
type Reason string

// The reasons. They are a format: more may come, none changes its meaning.
const (
	ByRule               Reason = "Rule"                 // a rule of Muster passes it over
	Conflicting          Reason = "Conflict"             // it stands there with other content
	Immutable            Reason = "Immutable"            // it stands there, and what differs can't be changed
	Refused              Reason = "Refused"              // the API server finds it invalid
	Forbidden            Reason = "Denied"               // the account may not
	QuotaExceeded        Reason = "Quota"                // a ResourceQuota forbids it
	WebhookRefused       Reason = "Webhook"              // an admission or conversion webhook refused it, or did not answer
	KindNotServed        Reason = "KindNotServed"        // the cluster does not serve its kind in its version
	NamespaceMissing     Reason = "NamespaceMissing"     // its namespace is not there
	NamespaceTerminating Reason = "NamespaceTerminating" // its namespace is being deleted
	BeingDeleted         Reason = "BeingDeleted"         // an object of its name is being deleted
	Unreadable           Reason = "Unreadable"           // the recovery point does not hold it as its index says
	TooLarge             Reason = "TooLarge"             // no API server takes an object of its size
	FieldsDropped        Reason = "FieldsDropped"        // it came back without fields that the cluster does not know
	NoAnswer             Reason = "NoAnswer"             // the API server did not answer as it should in time
)

// Outcome is what became of one object, and why.
type Outcome struct {
	Result  Result `json:"outcome"`
	Reason  Reason `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// ObjectOutcome is one line of outcomes.jsonl.
type ObjectOutcome struct {
	Group     string `json:"group"`
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// ToNamespace and ToName say where it went when a transformation has given it another place.
	ToNamespace string `json:"toNamespace,omitempty"`
	ToName      string `json:"toName,omitempty"`
	Outcome
}

// Target is the object's key in the cluster.
func (o ObjectOutcome) Target() Key {
	return Key{Group: o.Group, Resource: o.Resource, Namespace: cmp.Or(o.ToNamespace, o.Namespace), Name: cmp.Or(o.ToName, o.Name)}
}

// Key is the object's, in the recovery point; of a pruned object in the cluster.
func (o ObjectOutcome) Key() Key {
	return Key{Group: o.Group, Resource: o.Resource, Namespace: o.Namespace, Name: o.Name}
}

func outcomeLine(key, there Key, outcome Outcome) ObjectOutcome {
	line := ObjectOutcome{Group: key.Group, Resource: key.Resource, Namespace: key.Namespace, Name: key.Name, Outcome: outcome}
	if there.Namespace != key.Namespace {
		line.ToNamespace = there.Namespace
	}
	if there.Name != key.Name {
		line.ToName = there.Name
	}
	return line
}

// WriteOutcomes writes one line an object.
func WriteOutcomes(w io.Writer, outcomes []ObjectOutcome) error {
	buffered := bufio.NewWriter(w)
	encoder := json.NewEncoder(buffered)
	for _, outcome := range outcomes {
		if err := encoder.Encode(outcome); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// ReadOutcomes reads what WriteOutcomes wrote.
func ReadOutcomes(r io.Reader) ([]ObjectOutcome, error) {
	decoder := json.NewDecoder(r)
	var outcomes []ObjectOutcome
	for {
		var outcome ObjectOutcome
		err := decoder.Decode(&outcome)
		if errors.Is(err, io.EOF) {
			return outcomes, nil
		}
		if err != nil {
			return nil, fault.New("read outcomes", fault.Corrupt, OutcomesPath, err)
		}
		outcomes = append(outcomes, outcome)
	}
}

// reasonOf reads a typed reason from the API server's refusal.
func reasonOf(err error) Reason {
	text := err.Error()
	switch code := statusCode(err); {
	case errors.Is(err, errBeingDeleted):
		return BeingDeleted
	case strings.Contains(text, "failed calling webhook"), strings.Contains(text, "admission webhook"), strings.Contains(text, "conversion webhook"):
		return WebhookRefused
	case code == http.StatusForbidden && apierrors.HasStatusCause(unwrapStatus(err), "NamespaceTerminating"), strings.Contains(text, "being terminated"):
		return NamespaceTerminating
	case code == http.StatusForbidden && (strings.Contains(text, "exceeded quota") || strings.Contains(text, "failed quota")):
		return QuotaExceeded
	case code == http.StatusForbidden, code == http.StatusUnauthorized:
		return Forbidden
	case code == http.StatusNotFound && namesNamespace(err):
		return NamespaceMissing
	case code == http.StatusNotFound:
		return KindNotServed
	case code == http.StatusRequestEntityTooLarge, strings.Contains(text, "request is too large"), strings.Contains(text, "Too long: may not be more than"):
		return TooLarge
	case code == 0 || code >= http.StatusInternalServerError:
		return NoAnswer
	case immutable(err):
		return Immutable
	}
	return Refused
}

// namesNamespace reports a 404 that is about the object's namespace and not about its kind.
func namesNamespace(err error) bool {
	status := statusOf(err)
	return status.Details != nil && status.Details.Kind == "namespaces"
}

// immutable reports a refusal of a change that would be fine in a new object.
func immutable(err error) bool {
	text := err.Error()
	return statusCode(err) == http.StatusUnprocessableEntity &&
		(strings.Contains(text, "immutable") || strings.Contains(text, "updates to") || strings.Contains(text, "may not change"))
}

func statusOf(err error) metav1.Status {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return metav1.Status{}
	}
	return status.Status()
}

// unwrapStatus is the error that apierrors' functions look at.
func unwrapStatus(err error) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		return status
	}
	return err
}
