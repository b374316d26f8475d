package moto

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"regexp"

	"github.com/musterdr/muster/testenv/ebsdirect"
)

// Call is one request to AWS.
type Call struct {
	Service string // "ec2", "ebs", "sts"
	Action  string // "CreateSnapshots"
	Region  string
	Access  string     // the access key
	Form    url.Values // of EC2 and STS
	// Refused says that it was refused on demand, and not carried out.
	Refused bool
}

// String is the name as policies have it: "ec2:CreateSnapshots".
func (c Call) String() string { return c.Service + ":" + c.Action }

// request is a call with its wire.
type request struct {
	Call
	http *http.Request
	body []byte
}

var scope = regexp.MustCompile(`Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request`)

func readRequest(r *http.Request) (*request, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	call := Call{Form: url.Values{}}
	if m := scope.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
		call.Access, call.Region, call.Service = m[1], m[2], m[3]
	}
	if call.Service == "ebs" {
		call.Action = ebsdirect.Operation(r)
		return &request{call, r, body}, nil
	}
	if call.Form, err = url.ParseQuery(string(body)); err != nil {
		return nil, err
	}
	call.Action = call.Form.Get("Action")
	return &request{call, r, body}, nil
}

// with is the same request with another form.
func (q *request) with(form url.Values) *request {
	changed := *q
	changed.Form, changed.body = form, []byte(form.Encode())
	return &changed
}

// list is the values of Name.1, Name.2, ….
func list(form url.Values, name string) []string {
	var all []string
	for i := 1; form.Has(indexed(name, i)); i++ {
		all = append(all, form.Get(indexed(name, i)))
	}
	return all
}

// Refusal is an error that the Front answers with on demand.
type Refusal struct {
	Code, Message, Reason string
	Status                int
}

func (e *Refusal) Error() string { return e.Code + ": " + e.Message }

// write answers in the service's form.
func (e *Refusal) write(w http.ResponseWriter, service string) {
	if service == "ebs" {
		(&ebsdirect.Error{Status: e.Status, Code: e.Code, Message: e.Message, Reason: e.Reason}).Write(w)
		return
	}
	fault := element("Error", leaf("Code", e.Code), leaf("Message", e.Message))
	body := element("Response", element("Errors", fault), leaf("RequestID", "req-front"))
	if service != "ec2" {
		body = element("ErrorResponse", fault, leaf("RequestId", "req-front"))
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(e.Status)
	_, _ = io.WriteString(w, body.String()) // a client that is gone
}
