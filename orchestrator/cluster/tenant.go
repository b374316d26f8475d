package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/client-go/rest"

	"github.com/musterdr/muster/providers/fault"
)

// Tenant is the service account that work is done as, so that it sees and changes what that may see
// and change, and nothing else.
type Tenant struct {
	// ServiceAccount is namespace/name.
	ServiceAccount string `yaml:"serviceAccount" json:"serviceAccount"`
	// Impersonate uses the runner's own credentials and impersonation; without it the runner asks for
	// tokens of the account, which live ten minutes.
	Impersonate bool `yaml:"impersonate,omitempty" json:"impersonate,omitempty"`
	// SkipDenied leaves out, with the reason, what the account may not do. Without it such a plan is
	// refused.
	SkipDenied bool `yaml:"skipDenied,omitempty" json:"skipDenied,omitempty"`
}

// Validate says what is wrong with a tenant's settings.
func (t Tenant) Validate() error {
	namespace, name := t.split()
	if len(validation.ValidateNamespaceName(namespace, false)) > 0 || len(validation.ValidateServiceAccountName(name, false)) > 0 {
		return fault.Newf("read tenant", fault.Invalid, "serviceAccount", "want namespace/name of a service account")
	}
	return nil
}

func (t Tenant) split() (namespace, name string) {
	namespace, name, _ = strings.Cut(t.ServiceAccount, "/")
	return namespace, name
}

// Handover is what the runner needs to become a tenant.
func (t Tenant) Handover() Permission {
	namespace, name := t.split()
	if t.Impersonate {
		return Permission{Verb: "impersonate", Resource: "serviceaccounts", Namespace: namespace, Name: name}
	}
	return Permission{Verb: "create", Resource: "serviceaccounts/token", Namespace: namespace, Name: name}
}

// As returns a client that does everything as a tenant. Its Close closes this client, too.
//
// Errors: Invalid, NotFound when there is no such account, Denied when the runner may not ask for its
// token.
func (c *Client) As(ctx context.Context, tenant Tenant) (*Client, error) {
	if err := tenant.Validate(); err != nil {
		return nil, err
	}
	config := rest.CopyConfig(c.config)
	if tenant.Impersonate {
		namespace, name := tenant.split()
		config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + name}
	} else {
		tokens := &tokens{client: c, tenant: tenant}
		if _, err := tokens.next(ctx, ""); err != nil {
			return nil, err
		}
		config = rest.AnonymousClientConfig(c.config)
		config.Wrap(func(base http.RoundTripper) http.RoundTripper { return &bearing{base, tokens} })
	}
	client, err := newClient(config, c.tunnelled)
	if err != nil {
		return nil, err
	}
	client.runner = c
	return client, nil
}

// tokens asks for the tenant's tokens with the runner's own credentials.
type tokens struct {
	client *Client
	tenant Tenant

	mu    sync.Mutex
	token string
}

// next gives a token other than a stale one.
func (t *tokens) next(ctx context.Context, stale string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != stale {
		return t.token, nil
	}
	namespace, name := t.tenant.split()
	var made authenticationv1.TokenRequest
	err := t.client.call(ctx, request{
		method: http.MethodPost, path: "/api/v1/namespaces/" + namespace + "/serviceaccounts/" + name + "/token",
		body: fmt.Appendf(nil, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":%d}}`, tokenSeconds),
	}, &made)
	subject := "ServiceAccount " + t.tenant.ServiceAccount
	if fault.Is(err, fault.Denied) {
		return "", fault.Newf("ask for a token", fault.Denied, subject,
			"the runner needs the verb create on its subresource token; `muster rbac` prints the role: %w", err)
	}
	if err != nil {
		return "", fault.New("ask for a token", fault.KindOf(err), subject, err)
	}
	t.token = made.Status.Token
	return t.token, nil
}

// bearing sends requests with a tenant's token, and once more with a new one when that is not taken
// any longer.
type bearing struct {
	base   http.RoundTripper
	tokens *tokens
}

// RoundTrip implements http.RoundTripper.
func (b *bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.tokens.next(r.Context(), "")
	if err != nil {
		return nil, err
	}
	response, err := b.send(r, token)
	if err != nil || response.StatusCode != http.StatusUnauthorized || r.Body != nil && r.GetBody == nil {
		return response, err
	}
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection can be used again; the answer is known
	response.Body.Close()
	if token, err = b.tokens.next(r.Context(), token); err != nil {
		return nil, err
	}
	return b.send(r, token)
}

func (b *bearing) send(r *http.Request, token string) (*http.Response, error) {
	sent := r.Clone(r.Context())
	sent.Header.Set("Authorization", "Bearer "+token)
	if r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		sent.Body = body
	}
	return b.base.RoundTrip(sent)
}

// WrappedRoundTripper lets idle connections be found.
func (b *bearing) WrappedRoundTripper() http.RoundTripper { return b.base }
