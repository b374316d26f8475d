package workload

import (
	"context"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	customGroup = "demo.muster.dev"
	workshop    = "workshop" // the widgets' namespace
)

func widgets() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: customGroup, Version: "v1", Resource: "widgets"}
}

// fillCustom makes two kinds: namespaced widgets, of which one holds a finalizer and each owns the
// next, and cluster-scoped gadgets.
func fillCustom(ctx context.Context, config *rest.Config, size Size) error {
	extensions, err := clientset.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, definition := range []*apiextensionsv1.CustomResourceDefinition{
		customKind("Widget", "widgets", apiextensionsv1.NamespaceScoped),
		customKind("Gadget", "gadgets", apiextensionsv1.ClusterScoped),
	} {
		if err := ensure(extensions.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, definition, metav1.CreateOptions{})); err != nil {
			return err
		}
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	gadgets := client.Resource(schema.GroupVersionResource{Group: customGroup, Version: "v1", Resource: "gadgets"})
	err = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := gadgets.List(ctx, metav1.ListOptions{}) // served a moment after the definition is established
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	for i := range size.Custom {
		if err := ensure(gadgets.Create(ctx, customObject("Gadget", "", i), metav1.CreateOptions{})); err != nil {
			return err
		}
	}
	return fillWidgets(ctx, client, size.Custom)
}

// fillWidgets runs before the webhook exists, as a cluster's history has it.
func fillWidgets(ctx context.Context, client dynamic.Interface, count int) error {
	namespaces := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	if err := ensure(namespaces.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": workshop},
	}}, metav1.CreateOptions{})); err != nil {
		return err
	}
	made := client.Resource(widgets()).Namespace(workshop)
	var owner *unstructured.Unstructured
	for i := range count {
		widget := customObject("Widget", workshop, i)
		if i == 0 {
			widget.SetFinalizers([]string{customGroup + "/hold"})
		}
		if owner != nil {
			widget.SetOwnerReferences([]metav1.OwnerReference{{
				APIVersion: customGroup + "/v1", Kind: "Widget", Name: owner.GetName(), UID: owner.GetUID(),
			}})
		}
		stored, err := made.Create(ctx, widget, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			stored, err = made.Get(ctx, widget.GetName(), metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		owner = stored
	}
	return nil
}

func customObject(kind, ns string, i int) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": customGroup + "/v1", "kind": kind,
		"metadata": map[string]any{"name": fmt.Sprintf("part-%03d", i)},
		"spec":     map[string]any{"size": int64(i), "colour": "blue"},
	}}
	object.SetNamespace(ns)
	return object
}

func customKind(kind, plural string, scope apiextensionsv1.ResourceScope) *apiextensionsv1.CustomResourceDefinition {
	preserve := true
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + customGroup},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: customGroup, Scope: scope,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
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
