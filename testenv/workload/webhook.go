package workload

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const gate = "gate"

// fillWebhook runs a webhook in a pod and has the API server ask it about every widget, with
// failurePolicy Fail. Its own namespace is not exempt by accident: it holds no widgets.
func fillWebhook(ctx context.Context, client kubernetes.Interface, size Size) error {
	if err := ensure(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: gate}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	cert, key, err := selfSigned("gate.gate.svc")
	if err != nil {
		return err
	}
	if err := ensure(client.CoreV1().Secrets(gate).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: gate}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	if err := ensure(client.CoreV1().Services(gate).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: gate},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": gate}, Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	one := int32(1)
	if err := ensure(client.AppsV1().Deployments(gate).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: gate},
		Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: selector(gate), Template: gateTemplate(size.Webhook)},
	}, metav1.CreateOptions{})); err != nil {
		return err
	}
	stored, err := client.CoreV1().Secrets(gate).Get(ctx, gate, metav1.GetOptions{}) // an earlier Fill may have made it
	if err != nil {
		return err
	}
	return ensure(client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx,
		gateConfiguration(stored.Data[corev1.TLSCertKey]), metav1.CreateOptions{}))
}

func gateTemplate(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": gate}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: gate, Image: image, ImagePullPolicy: corev1.PullNever, Command: []string{"/webhook"},
				VolumeMounts: []corev1.VolumeMount{{Name: "tls", MountPath: "/tls", ReadOnly: true}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8443), Scheme: corev1.URISchemeHTTPS},
				}},
			}},
			Volumes: []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: gate}}}},
		},
	}
}

func gateConfiguration(ca []byte) *admissionv1.ValidatingWebhookConfiguration {
	fail, none, path := admissionv1.Fail, admissionv1.SideEffectClassNone, "/validate"
	return &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: gate},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "gate.demo.muster.dev", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: admissionv1.WebhookClientConfig{CABundle: ca, Service: &admissionv1.ServiceReference{Namespace: gate, Name: gate, Path: &path}},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{customGroup}, APIVersions: []string{"*"}, Resources: []string{"widgets"}},
			}},
		}},
	}
}

func selfSigned(host string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	var c, k bytes.Buffer
	if err := pem.Encode(&c, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, nil, err
	}
	err = pem.Encode(&k, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return c.Bytes(), k.Bytes(), err
}

// AskWebhook creates a widget that the webhook allows and one that it refuses, without storing them,
// and says what happened: "a good one allowed, a bad one refused" when the webhook answers.
func AskWebhook(ctx context.Context, config *rest.Config) (string, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return "", err
	}
	var answers []string
	for _, asked := range []struct {
		name string
		size int64
	}{{"a good one", 1}, {"a bad one", 666}} {
		widget := customObject("Widget", workshop, 0)
		widget.SetName("asked")
		if err := unstructured.SetNestedField(widget.Object, asked.size, "spec", "size"); err != nil {
			return "", err
		}
		_, err := client.Resource(widgets()).Namespace(workshop).Create(ctx, widget, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		switch {
		case err == nil:
			answers = append(answers, asked.name+" allowed")
		case strings.Contains(err.Error(), "denied the request"):
			answers = append(answers, asked.name+" refused")
		default:
			answers = append(answers, asked.name+": "+err.Error())
		}
	}
	return strings.Join(answers, ", "), nil
}
