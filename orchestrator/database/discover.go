package database

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/plans"
)

// Found is a database server that runs in a cluster: the pods of one owner.
type Found struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"` // of the owner at the top, else of the pod
	Owner     string   `json:"owner"`
	Engine    string   `json:"engine"`
	Pods      []string `json:"pods"` // by name; none when it is scaled to nothing
	Selector  string   `json:"selector,omitempty"`
	Image     string   `json:"image,omitempty"`
	// Reasons are why it was recognised, for people.
	Reasons []string `json:"reasons"`
	// Databases are the entries of the Cluster document whose pods are among these.
	Databases []string `json:"databases"`
	// Proposed is an entry for the Cluster document. It refers to secrets, and holds none.
	Proposed plans.Database `json:"proposed"`
}

// Operators are the kinds that the engines recognise databases by, "plural.group".
func Operators(engines map[string]plans.Engine) []string {
	var kinds []string
	for _, engine := range engines {
		kinds = append(kinds, engine.Spec.Discover.Operators...)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// Discover recognises database servers among what runs in a cluster, by the engines' rules, sorted by namespace
// and name. Pods of Jobs are passed over: they use a database, and are none.
func Discover(engines map[string]plans.Engine, w cluster.Workloads, known []plans.Database) []Found {
	d := discovery{engines: engines, owners: map[types.UID]owner{}, groups: map[groupKey]*group{}}
	for _, kind := range slices.Sorted(maps.Keys(w.Operated)) {
		for _, object := range w.Operated[kind] {
			d.owners[object.UID] = owner{kind, object.ObjectMeta}
		}
	}
	for _, r := range w.ReplicaSets {
		d.owners[r.UID] = owner{"ReplicaSet", r.ObjectMeta}
	}
	for _, s := range w.StatefulSets {
		d.owners[s.UID] = owner{"StatefulSet", s.ObjectMeta}
	}
	for _, s := range w.Deployments {
		d.owners[s.UID] = owner{"Deployment", s.ObjectMeta}
	}
	d.operators(w)
	for _, s := range w.StatefulSets {
		d.workload(owner{"StatefulSet", s.ObjectMeta}, s.Spec.Template, s.Spec.Selector)
	}
	for _, s := range w.Deployments {
		d.workload(owner{"Deployment", s.ObjectMeta}, s.Spec.Template, s.Spec.Selector)
	}
	for i := range w.Pods {
		d.pod(&w.Pods[i])
	}
	var found []Found
	for _, g := range d.groups {
		if f, is := g.found(w.Pods, known); is {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b Found) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Owner, b.Owner))
	})
	return found
}

type owner struct {
	kind string
	meta metav1.ObjectMeta
}

type groupKey struct{ namespace, kind, name string }

// group is what one owner at the top stands for.
type group struct {
	groupKey
	engine    plans.Engine
	operated  bool
	reasons   []string
	selectors []string
	labels    map[string]string // of a template, where no pod is there
	pods      []*corev1.Pod     // all that are the owner's
	servers   []*corev1.Pod     // in which a server was recognised
	spec      *corev1.PodSpec   // that it was recognised in first
	container *corev1.Container
}

type discovery struct {
	engines map[string]plans.Engine
	owners  map[types.UID]owner
	groups  map[groupKey]*group
}

// top is the owner at the end of the chain; of an owner that was not read, only its name is known.
func (d *discovery) top(kind string, meta metav1.ObjectMeta) groupKey {
	key := groupKey{meta.Namespace, kind, meta.Name}
	for range 16 { // no chain is that long, and none may be a ring
		controller := metav1.GetControllerOfNoCopy(&meta)
		if controller == nil {
			return key
		}
		key = groupKey{meta.Namespace, controller.Kind, controller.Name}
		above, read := d.owners[controller.UID]
		if !read {
			return key
		}
		key.kind, meta = above.kind, above.meta
	}
	return key
}

func (d *discovery) group(key groupKey) *group {
	if d.groups[key] == nil {
		d.groups[key] = &group{groupKey: key}
	}
	return d.groups[key]
}

func (g *group) because(reason string) {
	if !slices.Contains(g.reasons, reason) {
		g.reasons = append(g.reasons, reason)
	}
}

// operators makes a group of each object that an operator makes a database of.
func (d *discovery) operators(w cluster.Workloads) {
	for _, name := range slices.Sorted(maps.Keys(d.engines)) {
		for _, kind := range d.engines[name].Spec.Discover.Operators {
			for _, object := range w.Operated[kind] {
				g := d.group(d.top(kind, object.ObjectMeta))
				if g.engine.Metadata.Name == "" {
					g.engine, g.operated = d.engines[name], true
				}
				g.because("it is one of " + kind)
			}
		}
	}
}

// workload looks at the pods that are to be, which need not be there.
func (d *discovery) workload(o owner, template corev1.PodTemplateSpec, selector *metav1.LabelSelector) {
	key := d.top(o.kind, o.meta)
	r, is := d.recognise(&template.Spec)
	if !is {
		return
	}
	g := d.group(key)
	if !g.take(r, &template.Spec) {
		return
	}
	g.selectors = append(g.selectors, metav1.FormatLabelSelector(selector))
	g.labels = template.Labels
}

func (d *discovery) pod(pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return
	}
	key := d.top("Pod", pod.ObjectMeta)
	if key.kind == "Job" || key.kind == "CronJob" {
		return
	}
	r, is := d.recognise(&pod.Spec)
	g := d.groups[key]
	if g == nil && !is {
		return
	}
	g = d.group(key)
	g.pods = append(g.pods, pod)
	if is && g.take(r, &pod.Spec) {
		g.servers = append(g.servers, pod)
	}
}

// recognition is a container that an engine knows.
type recognition struct {
	engine    plans.Engine
	container *corev1.Container
	reasons   []string
	byImage   bool
}

// take adds what was recognised to a group, which is of the engine that was recognised first.
func (g *group) take(r recognition, spec *corev1.PodSpec) bool {
	if g.engine.Metadata.Name == "" {
		g.engine = r.engine
	}
	if g.engine.Metadata.Name != r.engine.Metadata.Name {
		return false
	}
	if g.container == nil {
		g.container, g.spec = r.container, spec
	}
	for _, reason := range r.reasons {
		g.because(reason)
	}
	return true
}

// recognise finds the container in which a server runs. An image tells more than a port, which others use too.
func (d *discovery) recognise(spec *corev1.PodSpec) (recognition, bool) {
	var best recognition
	for _, name := range slices.Sorted(maps.Keys(d.engines)) {
		rules := d.engines[name].Spec.Discover
		for i := range spec.Containers {
			c := &spec.Containers[i]
			image, port := imageFits(rules.Images, c.Image), portOf(rules.Ports, c)
			if !image && port == 0 {
				continue
			}
			r := recognition{engine: d.engines[name], container: c, byImage: image}
			switch {
			case image && port != 0:
				r.reasons = []string{"image " + imageName(c.Image), "port " + strconv.Itoa(int(port))}
			case image:
				r.reasons = []string{"image " + imageName(c.Image)}
			default:
				r.reasons = []string{"port " + strconv.Itoa(int(port)) + " alone: see what it is"}
			}
			if best.container == nil || image && !best.byImage {
				best = r
			}
		}
	}
	return best, best.container != nil
}

// companions are words in names of images that run beside databases.
func companions() []string {
	return []string{"exporter", "operator", "backup", "proxy", "pooler", "bouncer", "pgadmin", "client", "dashboards"}
}

func imageFits(patterns []string, image string) bool {
	name := imageName(image)
	for _, word := range companions() {
		if strings.Contains(name, word) {
			return false
		}
	}
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		fits, err := path.Match(pattern, name)
		return err == nil && fits
	})
}

// imageName is the last element of an image's path, without tag and digest.
func imageName(image string) string {
	name, _, _ := strings.Cut(path.Base(strings.SplitN(image, "@", 2)[0]), ":")
	return name
}

func portOf(ports []int, c *corev1.Container) int32 {
	for _, word := range companions() {
		if strings.Contains(imageName(c.Image), word) {
			return 0
		}
	}
	for _, p := range c.Ports {
		if slices.Contains(ports, int(p.ContainerPort)) {
			return p.ContainerPort
		}
	}
	return 0
}

// found is the group as people see it.
func (g *group) found(all []corev1.Pod, known []plans.Database) (Found, bool) {
	if g.container == nil && !g.operated {
		return Found{}, false
	}
	pods := g.servers
	if len(pods) == 0 {
		pods = g.pods
	}
	if g.container == nil && len(pods) > 0 && len(pods[0].Spec.Containers) > 0 {
		g.spec, g.container = &pods[0].Spec, &pods[0].Spec.Containers[0]
	}
	f := Found{
		Namespace: g.namespace, Name: g.name, Owner: g.kind, Engine: g.engine.Metadata.Name, Reasons: g.reasons,
		Pods: []string{}, Databases: []string{}, Selector: g.selector(pods, all),
	}
	if g.container != nil {
		f.Image = g.container.Image
	}
	for _, pod := range pods {
		f.Pods = append(f.Pods, pod.Name)
	}
	slices.Sort(f.Pods)
	for _, entry := range known {
		if g.isOf(entry, pods) {
			f.Databases = append(f.Databases, entry.Name)
		}
	}
	f.Proposed = g.proposal(f)
	if label, leads := roleOf(pods); label != "" && f.Selector != "" {
		f.Proposed.Pod.Selector += "," + label + "=replica"
		f.Proposed.Pod.Primary = f.Selector + "," + label + "=" + leads
	}
	return f, true
}

// roleOf is the label by which Patroni and operators tell which pod leads, where standbys are there, and its value then.
func roleOf(pods []*corev1.Pod) (label, leads string) {
	if len(pods) == 0 {
		return "", ""
	}
	for _, label := range slices.Sorted(maps.Keys(pods[0].Labels)) {
		if !strings.HasSuffix(strings.ToLower(label), "role") {
			continue
		}
		values := map[string]bool{}
		for _, pod := range pods {
			values[pod.Labels[label]] = true
		}
		for _, leads := range []string{"master", "primary"} {
			if values[leads] && values["replica"] {
				return label, leads
			}
		}
	}
	return "", ""
}

// isOf reports whether an entry of the Cluster document names one of the pods.
func (g *group) isOf(entry plans.Database, pods []*corev1.Pod) bool {
	at := entry.Pod
	if at == nil || at.Namespace != g.namespace {
		return false
	}
	chosen := func(name string, podLabels map[string]string) bool {
		if at.Selector == "" {
			return at.Name == name
		}
		selector, err := labels.Parse(at.Selector)
		return err == nil && selector.Matches(labels.Set(podLabels))
	}
	if len(pods) == 0 {
		return g.labels != nil && chosen("", g.labels)
	}
	return slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return chosen(pod.Name, pod.Labels) })
}

// selector is the workload's own, else the fewest labels that all of the pods have and no other pod of the
// namespace. It is empty for a pod that nobody owns.
func (g *group) selector(pods []*corev1.Pod, all []corev1.Pod) string {
	if len(g.selectors) == 1 {
		return g.selectors[0]
	}
	if g.kind == "Pod" || len(pods) == 0 {
		return ""
	}
	common := maps.Clone(pods[0].Labels)
	for _, pod := range pods[1:] {
		maps.DeleteFunc(common, func(name, value string) bool { return pod.Labels[name] != value })
	}
	maps.DeleteFunc(common, func(name, _ string) bool { return changing(name) })
	names := slices.SortedFunc(maps.Keys(common), func(a, b string) int { // those that name the owner first
		return cmp.Or(rank(common[a] != g.name)-rank(common[b] != g.name), cmp.Compare(a, b))
	})
	exact := func(chosen ...string) bool {
		for i := range all {
			pod := &all[i]
			fits := pod.Namespace == g.namespace && !slices.ContainsFunc(chosen, func(name string) bool { return pod.Labels[name] != common[name] })
			if fits && !slices.ContainsFunc(pods, func(own *corev1.Pod) bool { return own.Name == pod.Name }) {
				return false
			}
		}
		return true
	}
	for _, name := range names {
		if exact(name) {
			return name + "=" + common[name]
		}
	}
	if !exact(names...) {
		return ""
	}
	slices.Sort(names)
	var parts []string
	for _, name := range names {
		parts = append(parts, name+"="+common[name])
	}
	return strings.Join(parts, ",")
}

func rank(last bool) int {
	if last {
		return 1
	}
	return 0
}

// changing holds for labels that another pod of the same owner does not have, or the same pod not tomorrow.
func changing(label string) bool {
	for _, word := range []string{"hash", "pod-name", "pod-index", "role", "instanceName", "instanceRole"} {
		if strings.HasSuffix(strings.ToLower(label), strings.ToLower(word)) {
			return true
		}
	}
	return false
}

// proposal is an entry for the Cluster document.
func (g *group) proposal(f Found) plans.Database {
	d := plans.Database{Name: strings.ToLower(g.namespace + "/" + g.name), Engine: f.Engine, Pod: &plans.DatabasePod{Namespace: g.namespace, Selector: f.Selector}}
	if f.Selector == "" && len(f.Pods) > 0 {
		d.Pod.Name = f.Pods[0]
	}
	if g.container == nil {
		return d
	}
	if len(g.spec.Containers) > 1 {
		d.Pod.Container = g.container.Name
	}
	if _, takes := g.engine.Spec.Secrets["password"]; !takes {
		return d
	}
	for _, p := range passwords() {
		key := secretOf(g.spec, g.container, g.namespace, p.variable)
		if key == nil {
			continue
		}
		d.Secrets = map[string]plans.DatabaseSecret{"password": {Key: key}}
		_, takes := g.engine.Spec.Settings["user"]
		if user := variable(g.container, p.user); takes && user != nil && user.Value != "" {
			d.Settings = map[string]string{"user": user.Value}
		}
		break
	}
	return d
}

// password is a variable by which containers of databases take the password of the account that may do most, and
// the one that names the account where it isn't always the same.
type password struct{ variable, user string }

func passwords() []password {
	return []password{
		{"POSTGRESQL_POSTGRES_PASSWORD", ""}, {"POSTGRES_POSTGRES_PASSWORD", ""}, {"POSTGRESQL_ADMIN_PASSWORD", ""}, {"PGPASSWORD_SUPERUSER", "PGUSER_SUPERUSER"},
		{"POSTGRES_PASSWORD", "POSTGRES_USER"}, {"POSTGRESQL_PASSWORD", "POSTGRESQL_USERNAME"}, {"PGPASSWORD", "PGUSER"},
		{"MARIADB_ROOT_PASSWORD", ""}, {"MYSQL_ROOT_PASSWORD", ""},
		{"MONGO_INITDB_ROOT_PASSWORD", "MONGO_INITDB_ROOT_USERNAME"}, {"MONGODB_ROOT_PASSWORD", "MONGODB_ROOT_USER"},
	}
}

func variable(c *corev1.Container, name string) *corev1.EnvVar {
	i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name && name != "" })
	if i < 0 {
		return nil
	}
	return &c.Env[i]
}

// secretOf is the key of the Secret that a container takes a variable from, or, by the variable with _FILE, a
// file. Nothing is read of it.
func secretOf(spec *corev1.PodSpec, c *corev1.Container, namespace, name string) *plans.SecretKey {
	if v := variable(c, name); v != nil && v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
		return &plans.SecretKey{Namespace: namespace, Name: v.ValueFrom.SecretKeyRef.Name, Key: v.ValueFrom.SecretKeyRef.Key}
	}
	file := variable(c, name+"_FILE")
	if file == nil || file.Value == "" {
		return nil
	}
	for _, mount := range c.VolumeMounts {
		rest, below := strings.CutPrefix(file.Value, strings.TrimSuffix(mount.MountPath, "/")+"/")
		i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name && v.Secret != nil })
		if !below || i < 0 || mount.SubPath != "" {
			continue
		}
		from := spec.Volumes[i].Secret
		for _, item := range from.Items {
			if item.Path == rest {
				return &plans.SecretKey{Namespace: namespace, Name: from.SecretName, Key: item.Key}
			}
		}
		if len(from.Items) == 0 {
			return &plans.SecretKey{Namespace: namespace, Name: from.SecretName, Key: rest}
		}
	}
	return nil
}
