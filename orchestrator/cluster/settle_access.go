package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// addressesWithin bounds the wait for the API servers to drop addresses of dead ones: their
	// entries in etcd live 15 s, and the list is written every 10 s.
	addressesWithin = 90 * time.Second
	tokenSeconds    = 600 // the shortest that the API server issues
)

// tokens proves that the service-account key is the one that the recovery point's tokens were signed
// with: a fresh token is accepted, and so is an old one where a Secret holds any.
func (s *settling) tokens(ctx context.Context) (string, int, error) {
	const subject = "service-account tokens"
	seconds := int64(tokenSeconds)
	fresh, err := s.kube.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		s.note(Info, subject, "there is no service account default/default to try the signing key with")
	case err != nil:
		return "", 0, err
	default:
		if accepted, err := s.accepted(ctx, fresh.Status.Token); err != nil || !accepted {
			s.note(Lost, subject, "the API server refuses tokens that it signs: its --service-account-key-file does not belong to its signing key")
			return "a fresh token is refused", 0, err
		}
	}
	old, err := s.kube.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken), Limit: 1})
	if err != nil {
		return "", 0, err
	}
	if len(old.Items) == 0 {
		return "a fresh token is accepted; there are no stored ones", 0, nil
	}
	accepted, err := s.accepted(ctx, string(old.Items[0].Data[corev1.ServiceAccountTokenKey]))
	if err != nil {
		return "", 0, err
	}
	if !accepted {
		s.notef(Lost, "Secret "+old.Items[0].Namespace+"/"+old.Items[0].Name,
			"its token is refused: it was signed by another service-account key; delete such Secrets so that new tokens are made, or bring the old key back")
		return "stored tokens are refused", 0, nil
	}
	return "fresh and stored tokens are accepted", 0, nil
}

func (s *settling) accepted(ctx context.Context, token string) (bool, error) {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	answer, err := s.kube.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Authenticated, nil
}

// signingRequests deletes requests of the lost machines that nobody answered: kubelets make new ones,
// and an approval of an old one would certify a key that is gone.
func (s *settling) signingRequests(ctx context.Context) (string, int, error) {
	requests := s.kube.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", 0, err
	}
	deleted := 0
	for _, request := range list.Items {
		if !pendingBefore(request, s.Before) {
			continue
		}
		if err := requests.Delete(ctx, request.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return "", deleted, err
		}
		deleted++
		s.notef(Info, "CertificateSigningRequest "+request.Name, "deleted: %s asked for it before the loss and nobody answered", request.Spec.Username)
	}
	return fmt.Sprintf("%d of %d were left over", deleted, len(list.Items)), deleted, nil
}

func pendingBefore(request certificatesv1.CertificateSigningRequest, instant time.Time) bool {
	return len(request.Status.Conditions) == 0 && len(request.Status.Certificate) == 0 && !request.CreationTimestamp.After(instant)
}

// serverAddresses waits until the Service "kubernetes" leads to living API servers alone. The entries
// of dead ones (/registry/masterleases) have a time to live in etcd, and the living servers drop them.
func (s *settling) serverAddresses(ctx context.Context) (string, int, error) {
	ctx, cancel := context.WithTimeout(ctx, addressesWithin)
	defer cancel()
	var wrong []string
	err := until(ctx, func() (bool, error) {
		list, err := s.kube.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
		if err != nil {
			return false, err
		}
		wrong = nil
		found := 0
		for _, slice := range list.Items {
			for _, endpoint := range slice.Endpoints {
				found += len(endpoint.Addresses)
				wrong = append(wrong, s.foreign(endpoint.Addresses)...)
			}
		}
		return found > 0 && len(wrong) == 0, nil
	})
	if err == nil {
		return "the Service kubernetes leads to living API servers alone", 0, nil
	}
	if len(wrong) == 0 {
		return "", 0, err
	}
	s.notef(Lost, "Service default/kubernetes", "still leads to %s, where no API server is: delete /registry/masterleases/<address> in etcd", strings.Join(wrong, ", "))
	return "stale addresses remain", 0, nil
}

// foreign returns the addresses that no control plane of the cluster has.
func (s *settling) foreign(addresses []string) []string {
	var out []string
	for _, address := range addresses {
		if !slices.ContainsFunc(s.Targets, func(t Target) bool { return t.ControlPlane && t.Address == address }) {
			out = append(out, address)
		}
	}
	return out
}

// leases deletes election leases that have expired, so that candidates need not watch them for
// another term before they take over, and node leases of machines that are gone. A holder that lives
// and renews meanwhile makes the deletion fail, because it is for the version that was read.
func (s *settling) leases(ctx context.Context) (string, int, error) {
	leases, err := s.kube.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", 0, err
	}
	deleted := 0
	for _, lease := range leases.Items {
		if !s.abandoned(lease) {
			continue
		}
		options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}}
		err := s.kube.CoordinationV1().Leases(lease.Namespace).Delete(ctx, lease.Name, options)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			continue // somebody took it over since it was read
		}
		if err != nil {
			return "", deleted, err
		}
		deleted++
		s.notef(Info, "Lease "+lease.Namespace+"/"+lease.Name, "deleted: it expired with its holder %s", *lease.Spec.HolderIdentity)
	}
	return fmt.Sprintf("%d of %d had expired", deleted, len(leases.Items)), deleted, nil
}

func (s *settling) abandoned(lease coordinationv1.Lease) bool {
	spec := lease.Spec
	if spec.HolderIdentity == nil || spec.RenewTime == nil || spec.RenewTime.After(s.Before) {
		return false
	}
	if lease.Namespace == corev1.NamespaceNodeLease { // its kubelet renews it when it starts
		_, lives := s.targets[lease.Name]
		return !lives
	}
	return spec.LeaseDurationSeconds != nil && s.Now().After(spec.RenewTime.Add(time.Duration(*spec.LeaseDurationSeconds)*time.Second))
}

// apiServices waits for aggregated API servers. They run as pods, so it takes as long as workloads.
func (s *settling) apiServices(ctx context.Context) (string, int, error) {
	var down []string
	count := 0
	err := until(ctx, func() (bool, error) {
		down, count = nil, 0
		list, err := s.Client.apiServices(ctx)
		for _, service := range list {
			if service.remote {
				count++
			}
			if service.remote && !service.available {
				down = append(down, service.name)
			}
		}
		return len(down) == 0, err
	})
	for _, name := range down {
		s.note(Lost, "APIService "+name, "its API server does not answer: look at the pods behind its Service")
	}
	if err != nil && len(down) == 0 {
		return "", 0, err
	}
	return fmt.Sprintf("%d of %d aggregated ones answer", count-len(down), count), 0, nil
}
