package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	creators    = 64 // clients that create at a time
	connections = 4  // HTTP/2 connections that they share

	widgetGroup = "bench.muster.dev"
)

// size is how much of what a population has.
type size struct{ namespaces, deployments, secrets, configMaps, widgets int }

// population is what a cluster is filled with. A Deployment runs no pods; it owns the Secret of its number,
// and names that and the ConfigMap.
type population struct {
	namespaces  []*corev1.Namespace
	definition  *apiextensionsv1.CustomResourceDefinition
	deployments []*appsv1.Deployment
	secrets     []*corev1.Secret
	configMaps  []*corev1.ConfigMap
	widgets     []*unstructured.Unstructured
}

// count is the number of all objects, namespaces and the definition among them.
func (p population) count() int {
	return len(p.namespaces) + 1 + len(p.deployments) + len(p.secrets) + len(p.configMaps) + len(p.widgets)
}

func newPopulation(of size) population {
	from := newSource(1)
	p := population{definition: widgetDefinition()}
	for i := range of.namespaces {
		p.namespaces = append(p.namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: of.namespace(i)}})
	}
	for i := range of.deployments {
		p.deployments = append(p.deployments, deployment(of.named(i)))
	}
	for i := range of.secrets {
		p.secrets = append(p.secrets, &corev1.Secret{
			ObjectMeta: of.named(i), Type: corev1.SecretTypeOpaque,
			Data: map[string][]byte{"password": from.random(24), "tls.key": from.random(700)},
		})
	}
	for i := range of.configMaps {
		p.configMaps = append(p.configMaps, &corev1.ConfigMap{
			ObjectMeta: of.named(i), Data: map[string]string{"settings.yaml": from.text(1200)},
		})
	}
	for i := range of.widgets {
		p.widgets = append(p.widgets, widget(i, of.named(i), from))
	}
	return p
}

func (of size) namespace(i int) string { return fmt.Sprintf("bench-%03d", i%of.namespaces) }

func (of size) named(i int) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: fmt.Sprintf("item-%05d", i), Namespace: of.namespace(i),
		Labels: map[string]string{"app.kubernetes.io/name": fmt.Sprintf("app-%d", i%50), "app.kubernetes.io/managed-by": "bench"},
	}
}

func deployment(meta metav1.ObjectMeta) *appsv1.Deployment {
	labels := map[string]string{"app": meta.Name}
	return &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "app", Image: "registry.example.org/app:1",
				EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: meta.Name}}}},
			}},
			Volumes: []corev1.Volume{{Name: "keys", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: meta.Name}}}},
		}},
	}}
}

func widget(i int, meta metav1.ObjectMeta, from source) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{
			"size": int64(i), "colour": "blue", "template": from.text(400),
			"parts": []any{map[string]any{"name": "left", "count": int64(i % 7)}, map[string]any{"name": "right", "count": int64(i % 5)}},
		},
	}}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: widgetGroup, Version: "v1", Kind: "Widget"})
	object.SetName(meta.Name)
	object.SetNamespace(meta.Namespace)
	object.SetLabels(meta.Labels)
	return object
}

func widgetDefinition() *apiextensionsv1.CustomResourceDefinition {
	preserve := true
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets." + widgetGroup},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: widgetGroup, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Kind: "Widget"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"spec": {Type: "object", XPreserveUnknownFields: &preserve},
					},
				}},
			}},
		},
	}
}

// clients reach one API server over several connections, without a throttle.
type clients struct {
	typed     []kubernetes.Interface // speak protobuf
	dynamic   []dynamic.Interface    // JSON: custom resources know nothing else
	extension clientset.Interface
}

func connect(kubeconfig []byte) (*clients, error) {
	c := &clients{}
	for range connections {
		config, err := unthrottled(kubeconfig)
		if err != nil {
			return nil, err
		}
		custom, err := dynamic.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		if c.extension, err = clientset.NewForConfig(config); err != nil {
			return nil, err
		}
		binary := rest.CopyConfig(config)
		binary.ContentType, binary.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
		typed, err := kubernetes.NewForConfig(binary)
		if err != nil {
			return nil, err
		}
		c.typed, c.dynamic = append(c.typed, typed), append(c.dynamic, custom)
	}
	return c, nil
}

func unthrottled(kubeconfig []byte) (*rest.Config, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, 0
	config.WarningHandler = rest.NoWarnings{}
	config.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext // one of its own keeps client-go from sharing connections
	return config, nil
}

// create makes the whole population with 64 clients: the ceiling of what a restore can reach.
func (p population) create(ctx context.Context, kubeconfig []byte) error {
	c, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	definitions := c.extension.ApiextensionsV1().CustomResourceDefinitions()
	if _, err := definitions.Create(ctx, p.definition, metav1.CreateOptions{}); err != nil {
		return err
	}
	err = abreast(ctx, len(p.namespaces), func(ctx context.Context, client, i int) error {
		_, err := c.typed[client].CoreV1().Namespaces().Create(ctx, p.namespaces[i], metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	err = abreast(ctx, len(p.deployments), func(ctx context.Context, client, i int) error {
		object := p.deployments[i]
		made, err := c.typed[client].AppsV1().Deployments(object.Namespace).Create(ctx, object, metav1.CreateOptions{})
		if err == nil {
			p.secrets[i].OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: made.Name, UID: made.UID}}
		}
		return err
	})
	if err != nil {
		return err
	}
	err = abreast(ctx, len(p.secrets)+len(p.configMaps), func(ctx context.Context, client, i int) error {
		if i < len(p.secrets) {
			_, err := c.typed[client].CoreV1().Secrets(p.secrets[i].Namespace).Create(ctx, p.secrets[i], metav1.CreateOptions{})
			return err
		}
		object := p.configMaps[i-len(p.secrets)]
		_, err := c.typed[client].CoreV1().ConfigMaps(object.Namespace).Create(ctx, object, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	resource := schema.GroupVersionResource{Group: widgetGroup, Version: "v1", Resource: "widgets"}
	return abreast(ctx, len(p.widgets), func(ctx context.Context, client, i int) error {
		object := p.widgets[i]
		_, err := c.dynamic[client].Resource(resource).Namespace(object.GetNamespace()).Create(ctx, object, metav1.CreateOptions{})
		return err
	})
}

// abreast calls do for each of count things, by 64 goroutines that spread over the connections.
func abreast(ctx context.Context, count int, do func(ctx context.Context, client, i int) error) error {
	next := make(chan int)
	group, working := errgroup.WithContext(ctx)
	for creator := range creators {
		group.Go(func() error {
			for i := range next {
				if err := do(working, creator%connections, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(next)
		for i := range count {
			select {
			case next <- i:
			case <-working.Done():
				return working.Err()
			}
		}
		return nil
	})
	return group.Wait()
}
