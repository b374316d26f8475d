package database

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
)

func about(name string, labels map[string]string, ownerKind, owner string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: labels}
	if owner != "" {
		yes := true
		meta.OwnerReferences = []metav1.OwnerReference{{Kind: ownerKind, Name: owner, UID: types.UID(owner), Controller: &yes}}
	}
	return meta
}

func running(meta metav1.ObjectMeta, containers ...corev1.Container) corev1.Pod {
	return corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: containers}}
}

func image(name string, ports ...int32) corev1.Container {
	c := corev1.Container{Name: "main", Image: name}
	for _, port := range ports {
		c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: port})
	}
	return c
}

func discovered(t *testing.T, w cluster.Workloads, known ...plans.Database) []Found {
	t.Helper()
	engines, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return Discover(engines, w, known)
}

func TestDiscoverByImageAndPort(t *testing.T) {
	for name, test := range map[string]struct {
		container      corev1.Container
		engine, reason string
	}{
		"image":         {image("postgres:16"), "postgresql", "image postgres"},
		"registry":      {image("registry.example:5000/bitnami/postgresql@sha256:00"), "postgresql", "image postgresql"},
		"both":          {image("docker.io/mariadb:11.4", 3306), "mariadb", "image mariadb, port 3306"},
		"mongodb":       {image("mongo:7.0", 27017), "mongodb", "image mongo, port 27017"},
		"its web page":  {image("mongo-express:1", 8081), "", ""},
		"port":          {image("own-database", 5432), "postgresql", "port 5432 alone: see what it is"},
		"exporter":      {image("postgres-exporter:1", 9187), "", ""},
		"pooler":        {image("pgbouncer:1", 5432), "", ""},
		"operator":      {image("postgres-operator"), "", ""},
		"search":        {image("opensearchproject/opensearch:2.19.1", 9200, 9600), "opensearch", "image opensearch, port 9200"},
		"its ancestor":  {image("docker.elastic.co/elasticsearch/elasticsearch:8.17.0", 9200), "elasticsearch", "image elasticsearch, port 9200"},
		"its dashboard": {image("opensearchproject/opensearch-dashboards:2", 5601), "", ""},
		"something":     {image("nginx", 80), "", ""},
		"image in path": {image("postgres/web"), "", ""},
	} {
		found := discovered(t, cluster.Workloads{Pods: []corev1.Pod{running(about("db", nil, "", ""), test.container)}})
		if test.engine == "" {
			if len(found) > 0 {
				t.Errorf("%s: %v", name, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Engine != test.engine || strings.Join(found[0].Reasons, ", ") != test.reason || found[0].Proposed.Pod.Name != "db" {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// TestDiscoverGroupsByTheTop has a StatefulSet of two, a Deployment whose pods belong to a ReplicaSet, one that is
// scaled to nothing, and a Job, which is no server.
func TestDiscoverGroupsByTheTop(t *testing.T) {
	app := map[string]string{"app": "ledger"}
	web := map[string]string{"app": "web"}
	idle := map[string]string{"app": "idle"}
	pg := image("postgres:16")
	template := func(labels map[string]string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{pg}}}
	}
	ended := running(about("old", nil, "", ""), pg)
	ended.Status.Phase = corev1.PodSucceeded
	found := discovered(t, cluster.Workloads{
		StatefulSets: []appsv1.StatefulSet{{ObjectMeta: about("ledger", nil, "", ""), Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template(app)}}},
		Deployments: []appsv1.Deployment{
			{ObjectMeta: about("web-db", nil, "", ""), Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(web)}},
			{ObjectMeta: about("idle", nil, "", ""), Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: idle}, Template: template(idle)}},
		},
		ReplicaSets: []appsv1.ReplicaSet{{ObjectMeta: about("web-db-1", nil, "Deployment", "web-db")}},
		Pods: []corev1.Pod{
			running(about("ledger-1", app, "StatefulSet", "ledger"), pg), running(about("ledger-0", app, "StatefulSet", "ledger"), pg),
			running(about("web-db-1-x", web, "ReplicaSet", "web-db-1"), pg), running(about("dump-x", nil, "Job", "dump"), pg), ended,
		},
	},
		plans.Database{Name: "a", Pod: &plans.DatabasePod{Namespace: "shop", Selector: "app in (ledger),app!=web"}},
		plans.Database{Name: "b", Pod: &plans.DatabasePod{Namespace: "shop", Name: "ledger-0"}},
		plans.Database{Name: "c", Pod: &plans.DatabasePod{Namespace: "other", Selector: "app=ledger"}},
		plans.Database{Name: "d", Pod: &plans.DatabasePod{Namespace: "shop", Selector: "app=idle"}},
		plans.Database{Name: "e", Machine: "cp-0"},
	)
	var told []string
	for _, f := range found {
		told = append(told, strings.Join([]string{f.Owner, f.Name, strings.Join(f.Pods, "+"), f.Selector, strings.Join(f.Databases, "+"), f.Proposed.Pod.Selector}, " "))
	}
	want := []string{"Deployment idle  app=idle d app=idle", "StatefulSet ledger ledger-0+ledger-1 app=ledger a+b app=ledger", "Deployment web-db web-db-1-x app=web  app=web"}
	if !slices.Equal(told, want) {
		t.Errorf("%q\nwant %q", told, want)
	}
}

// TestDiscoverStandbys has the labels by which Patroni and operators tell roles: a backup is proposed of a standby.
func TestDiscoverStandbys(t *testing.T) {
	for label, leads := range map[string]string{"role": "master", "spilo-role": "master", "postgres-operator.crunchydata.com/role": "master", "cnpg.io/instanceRole": "primary"} {
		pod := func(name, role string) corev1.Pod {
			return running(about(name, map[string]string{"app": "ledger", label: role}, "StatefulSet", "ledger"), image("postgres:16"))
		}
		alone := discovered(t, cluster.Workloads{Pods: []corev1.Pod{pod("ledger-0", leads)}})
		if at := alone[0].Proposed.Pod; at.Selector != "app=ledger" || at.Primary != "" {
			t.Errorf("%s, no standby: %+v", label, at)
		}
		both := discovered(t, cluster.Workloads{Pods: []corev1.Pod{pod("ledger-0", "replica"), pod("ledger-1", leads)}})
		if at := both[0].Proposed.Pod; at.Selector != "app=ledger,"+label+"=replica" || at.Primary != "app=ledger,"+label+"="+leads {
			t.Errorf("%s: %+v", label, at)
		}
	}
}

func TestDiscoverOperators(t *testing.T) {
	labels := func(n string) map[string]string {
		return map[string]string{"cnpg.io/cluster": "bank", "cnpg.io/instanceName": n, "app.kubernetes.io/managed-by": "cnpg"}
	}
	kind := "clusters.postgresql.cnpg.io"
	w := cluster.Workloads{
		Operated: map[string][]metav1.PartialObjectMetadata{kind: {{ObjectMeta: about("bank", nil, "", "")}, {ObjectMeta: about("asleep", nil, "", "")}}},
		Pods: []corev1.Pod{
			running(about("bank-1", labels("bank-1"), "Cluster", "bank"), image("ghcr.io/cloudnative-pg/own-build:1")),
			running(about("bank-2", labels("bank-2"), "Cluster", "bank"), image("ghcr.io/cloudnative-pg/own-build:1")),
			running(about("web", map[string]string{"app.kubernetes.io/managed-by": "cnpg"}, "", ""), image("nginx")),
		},
	}
	found := discovered(t, w)
	if len(found) != 2 || found[0].Name != "asleep" || len(found[0].Pods) != 0 || found[0].Selector != "" {
		t.Fatalf("%+v", found)
	}
	if f := found[1]; f.Owner != kind || f.Selector != "cnpg.io/cluster=bank" || len(f.Pods) != 2 || f.Reasons[0] != "it is one of "+kind {
		t.Errorf("%+v", f)
	}
}

// TestDiscoverProposesSecrets by reference: what stands in a variable itself is never told.
func TestDiscoverProposesSecrets(t *testing.T) {
	from := func(name, secret, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key}}}
	}
	volume := corev1.Volume{Name: "keys", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "maria"}}}
	for name, test := range map[string]struct {
		image  string
		env    []corev1.EnvVar
		secret *plans.SecretKey
		user   string
	}{
		"postgres": {"postgres", []corev1.EnvVar{from("POSTGRES_PASSWORD", "pg", "pw"), {Name: "POSTGRES_USER", Value: "app"}}, &plans.SecretKey{Namespace: "shop", Name: "pg", Key: "pw"}, "app"},
		"the superuser's first": {"postgresql", []corev1.EnvVar{from("POSTGRES_PASSWORD", "pg", "pw"), from("POSTGRES_POSTGRES_PASSWORD", "pg", "root"), {Name: "POSTGRES_USER", Value: "app"}},
			&plans.SecretKey{Namespace: "shop", Name: "pg", Key: "root"}, ""},
		"libpq":   {"postgres", []corev1.EnvVar{from("PGPASSWORD", "pg", "pw")}, &plans.SecretKey{Namespace: "shop", Name: "pg", Key: "pw"}, ""},
		"mariadb": {"mariadb", []corev1.EnvVar{from("MARIADB_ROOT_PASSWORD", "maria", "root")}, &plans.SecretKey{Namespace: "shop", Name: "maria", Key: "root"}, ""},
		"mysql":   {"mariadb", []corev1.EnvVar{from("MYSQL_ROOT_PASSWORD", "maria", "root")}, &plans.SecretKey{Namespace: "shop", Name: "maria", Key: "root"}, ""},
		"mongodb": {"mongo", []corev1.EnvVar{from("MONGO_INITDB_ROOT_PASSWORD", "mongo", "root"), {Name: "MONGO_INITDB_ROOT_USERNAME", Value: "keeper"}}, &plans.SecretKey{Namespace: "shop", Name: "mongo", Key: "root"}, "keeper"},
		"file":    {"mariadb", []corev1.EnvVar{{Name: "MARIADB_ROOT_PASSWORD_FILE", Value: "/opt/secrets/root"}}, &plans.SecretKey{Namespace: "shop", Name: "maria", Key: "root"}, ""},
		"literal": {"postgres", []corev1.EnvVar{{Name: "POSTGRES_PASSWORD", Value: "hunter2-hunter2"}}, nil, ""},
	} {
		c := image(test.image)
		c.Env, c.VolumeMounts = test.env, []corev1.VolumeMount{{Name: "keys", MountPath: "/opt/secrets"}}
		pod := running(about("db", nil, "", ""), c, corev1.Container{Name: "beside", Image: "nginx"})
		pod.Spec.Volumes = []corev1.Volume{volume}
		found := discovered(t, cluster.Workloads{Pods: []corev1.Pod{pod}})
		if len(found) != 1 {
			t.Fatalf("%s: %+v", name, found)
		}
		got := found[0].Proposed
		if key := got.Secrets["password"].Key; (key == nil) != (test.secret == nil) || key != nil && *key != *test.secret || got.Settings["user"] != test.user || got.Pod.Container != "main" {
			t.Errorf("%s: %+v", name, got)
		}
		if text, _ := json.Marshal(found); strings.Contains(string(text), "hunter2") {
			t.Errorf("%s: %s", name, text)
		}
	}
}
