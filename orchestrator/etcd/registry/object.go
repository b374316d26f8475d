package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"sync"

	apps "github.com/openshift/api/apps/v1"
	authorization "github.com/openshift/api/authorization/v1"
	build "github.com/openshift/api/build/v1"
	image "github.com/openshift/api/image/v1"
	network "github.com/openshift/api/network/v1"
	oauth "github.com/openshift/api/oauth/v1"
	project "github.com/openshift/api/project/v1"
	quota "github.com/openshift/api/quota/v1"
	route "github.com/openshift/api/route/v1"
	security "github.com/openshift/api/security/v1"
	template "github.com/openshift/api/template/v1"
	user "github.com/openshift/api/user/v1"
	"go.yaml.in/yaml/v2"
	kubernetes "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	current "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/musterdr/muster/providers/fault"
)

// protobufMark is what a value begins with that is protobuf: a runtime.Unknown follows.
var protobufMark = []byte("k8s\x00")

func isObject(stored []byte) bool {
	return bytes.HasPrefix(stored, protobufMark) || bytes.HasPrefix(bytes.TrimLeft(stored, " \t\r\n"), []byte("{"))
}

// kinds reads what is stored as protobuf: Kubernetes' own kinds, and those of OpenShift's API servers. OpenShift's
// other kinds are custom resources.
var kinds = sync.OnceValue(func() runtime.Decoder {
	known := runtime.NewScheme()
	groups := runtime.NewSchemeBuilder(scheme.AddToScheme, apps.Install, authorization.Install, build.Install, image.Install,
		network.Install, oauth.Install, project.Install, quota.Install, route.Install, security.Install, template.Install, user.Install)
	utilruntime.Must(groups.AddToScheme(known))
	return serializer.NewCodecFactory(known).UniversalDeserializer()
})

// conversions converts CustomResourceDefinitions, which the API server stores in a version that it no longer serves.
var conversions = sync.OnceValue(func() *runtime.Scheme {
	known := runtime.NewScheme()
	install.Install(known)
	return known
})

// Object is the entry's object in the version in which it is stored, with the resourceVersion that the API
// server gives it. keys may be nil.
//
// Errors: Denied for what is encrypted and cannot be opened, Unsupported for a value that is no object and for
// protobuf of a kind that is not known here, Corrupt for damage.
func Object(ctx context.Context, e Entry, keys *Keys) (*unstructured.Unstructured, error) {
	raw, err := keys.open(ctx, e)
	if err != nil {
		return nil, err
	}
	if !isObject(raw) {
		return nil, fault.Newf("read object", fault.Unsupported, e.Key, "its value is no object of Kubernetes")
	}
	object, err := decode(e.Key, raw)
	if err != nil {
		return nil, err
	}
	object.SetResourceVersion(strconv.FormatInt(e.Revision, 10))
	return object, nil
}

func decode(key string, raw []byte) (*unstructured.Unstructured, error) {
	if !bytes.HasPrefix(raw, protobufMark) {
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(raw); err != nil {
			return nil, fault.New("read object", fault.Corrupt, key, err)
		}
		if object.GroupVersionKind() == extensions.SchemeGroupVersion.WithKind("CustomResourceDefinition") {
			return definition(key, raw)
		}
		return object, nil
	}
	typed, kind, err := kinds().Decode(raw, nil, nil)
	if runtime.IsNotRegisteredError(err) {
		return nil, fault.Newf("read object", fault.Unsupported, key, "it is protobuf of a kind that is not known here: %w", err)
	}
	if err != nil {
		return nil, fault.New("read object", fault.Corrupt, key, err)
	}
	if set, ok := typed.(*kubernetes.StatefulSet); ok {
		nameClaims(set)
	}
	return untyped(key, typed, *kind)
}

// nameClaims does what the API server does when it reads a set: protobuf holds no kind of a part.
func nameClaims(set *kubernetes.StatefulSet) {
	for i := range set.Spec.VolumeClaimTemplates {
		set.Spec.VolumeClaimTemplates[i].SetGroupVersionKind(core.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
	}
}

// definition converts one to the version that is served.
func definition(key string, raw []byte) (*unstructured.Unstructured, error) {
	var stored extensions.CustomResourceDefinition
	if err := json.Unmarshal(raw, &stored); err != nil {
		return nil, fault.New("read object", fault.Corrupt, key, err)
	}
	conversions().Default(&stored)
	internal, err := conversions().ConvertToVersion(&stored, apiextensions.SchemeGroupVersion)
	if err != nil {
		return nil, fault.New("read object", fault.Corrupt, key, err)
	}
	served, err := conversions().ConvertToVersion(internal, current.SchemeGroupVersion)
	if err != nil {
		return nil, fault.New("read object", fault.Corrupt, key, err)
	}
	return untyped(key, served, current.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
}

func untyped(key string, typed runtime.Object, kind schema.GroupVersionKind) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return nil, fault.New("read object", fault.Corrupt, key, err)
	}
	object := &unstructured.Unstructured{Object: content}
	object.SetGroupVersionKind(kind)
	return object, nil
}

// YAML is an object as kubectl prints it. sigs.k8s.io/yaml would go through JSON, and fail at control characters;
// what version 3 of the library prints cannot be read when a text begins with a tab.
func YAML(object *unstructured.Unstructured) ([]byte, error) {
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		return nil, fault.New("print object", fault.Internal, object.GetName(), err)
	}
	return text, nil
}
