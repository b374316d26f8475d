package registry

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	apps "github.com/openshift/api/apps/v1"
	build "github.com/openshift/api/build/v1"
	image "github.com/openshift/api/image/v1"
	network "github.com/openshift/api/network/v1"
	oauth "github.com/openshift/api/oauth/v1"
	route "github.com/openshift/api/route/v1"
	security "github.com/openshift/api/security/v1"
	template "github.com/openshift/api/template/v1"
	user "github.com/openshift/api/user/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterdr/muster/testenv/etcd"
)

// openshiftObject is a kind of OpenShift's API servers, with the key under which they store it:
// test/extended/etcd/etcd_storage_path.go of github.com/openshift/origin.
type openshiftObject struct {
	key    string
	object interface {
		runtime.Object
		metav1.Object
	}
	add func(*runtime.Scheme) error
}

var (
	meta   = metav1.ObjectMeta{Name: "a", Namespace: "shop", UID: "u", Labels: map[string]string{"app": "a"}, CreationTimestamp: metav1.NewTime(time.Unix(1700000000, 0))}
	global = metav1.ObjectMeta{Name: "a", UID: "u", Annotations: map[string]string{"note": "two\nlines"}}
	nested = runtime.RawExtension{Raw: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"${NAME}"},"data":{"n":"1"}}`)}
	weight = int32(7)
	yes    = true
)

var openshiftObjects = []openshiftObject{
	{"/openshift.io/routes/shop/a", &route.Route{ObjectMeta: meta, Spec: route.RouteSpec{
		Host: "a.example.org", To: route.RouteTargetReference{Kind: "Service", Name: "a", Weight: &weight},
		Port: &route.RoutePort{TargetPort: intstr.FromString("http")}, TLS: &route.TLSConfig{Termination: route.TLSTerminationEdge, Key: "planted"},
	}}, route.Install},
	{"/openshift.io/deploymentconfigs/shop/a", &apps.DeploymentConfig{ObjectMeta: meta, Spec: apps.DeploymentConfigSpec{
		Replicas: 2, Selector: map[string]string{"app": "a"}, Triggers: apps.DeploymentTriggerPolicies{{Type: apps.DeploymentTriggerOnConfigChange}},
		Template: &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a", Resources: corev1.ResourceRequirements{
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		}}}}},
	}}, apps.Install},
	{"/openshift.io/buildconfigs/shop/a", &build.BuildConfig{ObjectMeta: meta, Spec: build.BuildConfigSpec{
		RunPolicy: build.BuildRunPolicySerial, CommonSpec: build.CommonSpec{Source: build.BuildSource{Git: &build.GitBuildSource{URI: "https://example.org/a.git"}}},
	}}, build.Install},
	{"/openshift.io/builds/shop/a", &build.Build{ObjectMeta: meta, Status: build.BuildStatus{Phase: build.BuildPhaseComplete, Duration: time.Minute}}, build.Install},
	{"/openshift.io/imagestreams/shop/a", &image.ImageStream{ObjectMeta: meta, Spec: image.ImageStreamSpec{
		Tags: []image.TagReference{{Name: "latest", From: &corev1.ObjectReference{Kind: "DockerImage", Name: "a:1"}}},
	}}, image.Install},
	{"/openshift.io/images/a", &image.Image{
		ObjectMeta: global, DockerImageReference: "a@sha256:0", DockerImageMetadataVersion: "1.0",
		DockerImageMetadata: runtime.RawExtension{Raw: []byte(`{"kind":"DockerImage","apiVersion":"1.0","Id":"","Size":12}`)},
	}, image.Install},
	{"/openshift.io/templates/shop/a", &template.Template{ObjectMeta: meta, Objects: []runtime.RawExtension{nested}, Parameters: []template.Parameter{{Name: "NAME", Required: true}}}, template.Install},
	{"/openshift.io/templateinstances/shop/a", &template.TemplateInstance{ObjectMeta: meta, Spec: template.TemplateInstanceSpec{Template: template.Template{Objects: []runtime.RawExtension{nested}}}}, template.Install},
	{"/openshift.io/brokertemplateinstances/a", &template.BrokerTemplateInstance{ObjectMeta: global, Spec: template.BrokerTemplateInstanceSpec{BindingIDs: []string{"b"}}}, template.Install},
	{"/openshift.io/rangeallocations/a", &security.RangeAllocation{ObjectMeta: global, Range: "1-9", Data: []byte{0, 1, 255}}, security.Install},
	{"/openshift.io/oauth/clients/a", &oauth.OAuthClient{ObjectMeta: global, Secret: "planted", RespondWithChallenges: yes, GrantMethod: oauth.GrantHandlerAuto}, oauth.Install},
	{"/openshift.io/oauth/clientauthorizations/a", &oauth.OAuthClientAuthorization{ObjectMeta: global, ClientName: "a", Scopes: []string{"user:info"}}, oauth.Install},
	{"/openshift.io/oauth/accesstokens/a", &oauth.OAuthAccessToken{ObjectMeta: global, ExpiresIn: 86400}, oauth.Install},
	{"/openshift.io/oauth/authorizetokens/a", &oauth.OAuthAuthorizeToken{ObjectMeta: global, CodeChallenge: "c"}, oauth.Install},
	{"/openshift.io/users/a", &user.User{ObjectMeta: global, FullName: "A", Identities: []string{"ldap:a"}}, user.Install},
	{"/openshift.io/useridentities/a", &user.Identity{ObjectMeta: global, ProviderName: "ldap", Extra: map[string]string{"mail": "a@example.org"}}, user.Install},
	{"/openshift.io/groups/a", &user.Group{ObjectMeta: global, Users: user.OptionalNames{"a", "b"}}, user.Install},
	{"/kubernetes.io/network.openshift.io/netnamespaces/a", &network.NetNamespace{ObjectMeta: global, NetName: "a", NetID: 7}, network.Install},
	{"/kubernetes.io/configmaps/shop/a", &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "b"}}, corev1.AddToScheme},
}

// TestOpenShift stores what OpenShift's API servers store, where they store it, and compares what is read with the
// JSON of the objects themselves.
func TestOpenShift(t *testing.T) {
	client, err := etcd.Need(t, 1).Client()
	must(t, err)
	defer client.Close()
	want := map[string]openshiftObject{}
	for _, o := range openshiftObjects {
		known := runtime.NewScheme()
		must(t, o.add(known))
		kinds, _, err := known.ObjectKinds(o.object)
		must(t, err)
		o.object.GetObjectKind().SetGroupVersionKind(kinds[0])
		raw, err := runtime.Encode(protobuf.NewSerializer(known, known), o.object)
		must(t, err)
		_, err = client.Put(t.Context(), o.key, string(raw))
		must(t, err)
		want[o.key] = o
	}
	entries, err := read(t, snapshotOf(t, client), Query{})
	must(t, err)
	if len(entries) != len(want) {
		t.Fatalf("%d entries, want %d", len(entries), len(want))
	}
	for _, e := range entries {
		got, err := Object(t.Context(), e, nil)
		if err != nil {
			t.Errorf("%s: %v", e.Key, err)
			continue
		}
		object := want[e.Key].object
		object.SetResourceVersion(got.GetResourceVersion())
		raw, err := json.Marshal(object)
		must(t, err)
		var plainly any
		must(t, json.Unmarshal(raw, &plainly))
		if !reflect.DeepEqual(plain(t, got), plainly) {
			t.Errorf("%s is\n%v, want\n%v", e.Key, plain(t, got), plainly)
		}
	}
}
