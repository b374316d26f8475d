package plans

import "time"

// APIVersion is the only version of documents that this program reads and writes.
const APIVersion = "muster.dev/v1alpha1"

// Purpose says what a plan is for; steps declare the purposes they can serve.
type Purpose string

// The purposes.
const (
	Capture Purpose = "capture"
	Recover Purpose = "recover"
	Drill   Purpose = "drill"
	Migrate Purpose = "migrate"
)

// Role is what a machine does in its cluster.
type Role string

// The roles.
const (
	ControlPlane Role = "control-plane"
	Worker       Role = "worker"
)

// Metadata names a document.
type Metadata struct {
	Name   string            `yaml:"name" json:"name"`
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
}

// Cluster is the inventory of one cluster.
type Cluster struct {
	Metadata Metadata    `yaml:"metadata" json:"metadata"`
	Spec     ClusterSpec `yaml:"spec" json:"spec"`
}

// ClusterSpec tells how to reach a cluster.
type ClusterSpec struct {
	// KubeconfigFile is a path; relative ones are resolved against the document's folder.
	KubeconfigFile string `yaml:"kubeconfigFile" json:"kubeconfigFile"`
	// Context names the kubeconfig context; empty means its current one.
	Context  string    `yaml:"context,omitempty" json:"context,omitempty"`
	Etcd     Etcd      `yaml:"etcd,omitempty" json:"etcd"`
	SSH      SSH       `yaml:"ssh,omitempty" json:"ssh"`
	Machines []Machine `yaml:"machines,omitempty" json:"machines,omitempty"`
	// Storage are the backends whose volumes the cluster uses.
	Storage []Storage `yaml:"storage,omitempty" json:"storage,omitempty"`
	// Databases are the database servers whose content is captured with their engines' own tools.
	Databases []Database `yaml:"databases,omitempty" json:"databases,omitempty"`
	// Engines are the DatabaseEngine documents that Databases name. Check fills it in.
	Engines []Engine `yaml:"-" json:"engines,omitempty"`
}

// Storage is a backend that a provider reaches. In a Machines document it is where the volumes of the
// rebuilt cluster go.
type Storage struct {
	Name     string `yaml:"name" json:"name"`         // in this document, and in plans: "fast"
	Provider string `yaml:"provider" json:"provider"` // "ceph": the program muster-provider-ceph
	// MaxParallel bounds the volumes of this backend that a run moves at once; 0 means no bound beside the
	// step's and the plan's.
	MaxParallel int `yaml:"maxParallel,omitempty" json:"maxParallel,omitempty"`
	// Environment are names of environment variables that the provider may see, besides PATH and the like:
	// AWS_PROFILE. Others are not passed on.
	Environment []string `yaml:"environment,omitempty" json:"environment,omitempty"`
	// Settings are the provider's own; `muster provider info` shows their schema. Under names that end in
	// File or Folder, relative paths are resolved against the document's folder.
	Settings map[string]any `yaml:"settings,omitempty" json:"settings,omitempty"`
}

// Etcd tells how to reach the cluster's etcd members. Empty endpoints mean: port 2379 of every
// control-plane machine; empty certificate files mean: fetched over SSH from /etc/kubernetes/pki/etcd
// of a control-plane machine and kept in memory alone.
type Etcd struct {
	Endpoints []string `yaml:"endpoints,omitempty" json:"endpoints,omitempty"`
	CAFile    string   `yaml:"caFile,omitempty" json:"caFile,omitempty"`
	CertFile  string   `yaml:"certFile,omitempty" json:"certFile,omitempty"`
	KeyFile   string   `yaml:"keyFile,omitempty" json:"keyFile,omitempty"`
}

// SSH tells how to log in. A machine's own settings override its document's, field by field.
type SSH struct {
	User           string `yaml:"user,omitempty" json:"user,omitempty"` // default root
	Port           int    `yaml:"port,omitempty" json:"port,omitempty"` // default 22
	KeyFile        string `yaml:"keyFile,omitempty" json:"keyFile,omitempty"`
	KnownHostsFile string `yaml:"knownHostsFile,omitempty" json:"knownHostsFile,omitempty"`
	// Sudo runs every remote command through "sudo -n"; for users other than root.
	Sudo bool `yaml:"sudo,omitempty" json:"sudo,omitempty"`
}

// Machine is one machine of a cluster.
type Machine struct {
	Name    string   `yaml:"name" json:"name"` // the node's name
	Address string   `yaml:"address" json:"address"`
	Role    Role     `yaml:"role" json:"role"`
	SSH     SSH      `yaml:"ssh,omitempty" json:"ssh"`
	Devices []Device `yaml:"devices,omitempty" json:"devices,omitempty"`
	// Replaces names the captured machine whose content a target machine receives. It is read in
	// Machines documents alone; empty means the captured machine of the same name, else the next
	// unused one of the same role.
	Replaces string `yaml:"replaces,omitempty" json:"replaces,omitempty"`
}

// Device is an attached block device that is captured as an image.
type Device struct {
	Name string `yaml:"name" json:"name"` // the artifact's name: devices/<name>.img
	Path string `yaml:"path" json:"path"` // on the machine: /dev/vdb
}

// Machines is a list of blank machines to rebuild a cluster on.
type Machines struct {
	Metadata Metadata     `yaml:"metadata" json:"metadata"`
	Spec     MachinesSpec `yaml:"spec" json:"spec"`
}

// MachinesSpec is the content of a Machines document.
type MachinesSpec struct {
	SSH SSH `yaml:"ssh,omitempty" json:"ssh"`
	// ControlPlaneEndpoint is host:port of the API server as all machines will reach it. Empty
	// means: the captured endpoint, with the new address of the machine whose address it was, when it
	// is that of a captured machine or a name; else the
	// first control-plane machine's address and port 6443.
	ControlPlaneEndpoint string    `yaml:"controlPlaneEndpoint,omitempty" json:"controlPlaneEndpoint,omitempty"`
	Machines             []Machine `yaml:"machines" json:"machines"`
	Storage              []Storage `yaml:"storage,omitempty" json:"storage,omitempty"`
}

// Repository says where recovery points are kept. It holds no secret.
type Repository struct {
	Metadata Metadata       `yaml:"metadata" json:"metadata"`
	Spec     RepositorySpec `yaml:"spec" json:"spec"`
}

// RepositorySpec is the content of a Repository document.
type RepositorySpec struct {
	// URL is file:///path or s3://bucket/prefix.
	URL     string `yaml:"url" json:"url"`
	S3      S3     `yaml:"s3,omitempty" json:"s3"`
	KeyFile string `yaml:"keyFile" json:"keyFile"`
	// PublicKey pins the ed25519 key that manifests must be signed with: "ed25519:<base64>". Empty
	// means the one in the key file.
	PublicKey string    `yaml:"publicKey,omitempty" json:"publicKey,omitempty"`
	Retention Retention `yaml:"retention,omitempty" json:"retention"`
}

// S3 tells how to reach an S3 server. Credentials come from the environment (AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), from CredentialsFile, or from the instance's role.
type S3 struct {
	Endpoint string `yaml:"endpoint,omitempty" json:"endpoint,omitempty"` // https://host:port; empty means AWS
	Region   string `yaml:"region,omitempty" json:"region,omitempty"`
	// PathStyle asks for https://host/bucket in place of https://bucket.host. Servers other than AWS
	// are asked so in any case, and AWS never is: there it is refused.
	PathStyle       bool   `yaml:"pathStyle,omitempty" json:"pathStyle,omitempty"`
	CAFile          string `yaml:"caFile,omitempty" json:"caFile,omitempty"`
	CredentialsFile string `yaml:"credentialsFile,omitempty" json:"credentialsFile,omitempty"`
}

// Retention says which recovery points are kept: the newest of each of the N latest hours, days and
// so on that have any, the newest Latest in any case, and nothing older than MaxAge. All zero keeps
// everything.
type Retention struct {
	Latest  int      `yaml:"latest,omitempty" json:"latest,omitempty"`
	Hourly  int      `yaml:"hourly,omitempty" json:"hourly,omitempty"`
	Daily   int      `yaml:"daily,omitempty" json:"daily,omitempty"`
	Weekly  int      `yaml:"weekly,omitempty" json:"weekly,omitempty"`
	Monthly int      `yaml:"monthly,omitempty" json:"monthly,omitempty"`
	Yearly  int      `yaml:"yearly,omitempty" json:"yearly,omitempty"`
	MaxAge  Duration `yaml:"maxAge,omitempty" json:"maxAge,omitempty"`
}

// Plan is an ordered list of steps, a directed acyclic graph by their needs.
type Plan struct {
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	Spec     PlanSpec `yaml:"spec" json:"spec"`
}

// PlanSpec is the content of a Plan document.
type PlanSpec struct {
	Purpose    Purpose `yaml:"purpose" json:"purpose"`
	Cluster    string  `yaml:"cluster,omitempty" json:"cluster,omitempty"`       // name of a Cluster document
	Repository string  `yaml:"repository,omitempty" json:"repository,omitempty"` // name of a Repository document
	Machines   string  `yaml:"machines,omitempty" json:"machines,omitempty"`     // name of a Machines document
	// Parameters are what a run of this plan may be told, by name; expressions read them as
	// params.<name>.
	Parameters map[string]Parameter `yaml:"parameters,omitempty" json:"parameters,omitempty"`
	// MaxParallel bounds the tasks (items of all steps) that run at once; 0 means 8.
	MaxParallel int `yaml:"maxParallel,omitempty" json:"maxParallel,omitempty"`
	// Deadline bounds the whole run, from its first start on and pauses included. When it passes,
	// tasks that run are interrupted and the run fails; its reaction is OnFailureStop. 0 means none.
	Deadline Duration `yaml:"deadline,omitempty" json:"deadline,omitempty"`
	// OnLocked says what a run does that finds a lock of one of its steps held by another run.
	OnLocked OnLocked `yaml:"onLocked,omitempty" json:"onLocked,omitempty"`
	Steps    []Step   `yaml:"steps" json:"steps"`
}

// OnLocked says what happens to a run whose locks another run holds.
type OnLocked string

// The reactions to a lock that is held. Refuse is the default: the run ends with fault.Busy before
// anything is done. A run that waits does so before the step that wants the lock.
const (
	OnLockedRefuse OnLocked = "refuse"
	OnLockedWait   OnLocked = "wait"
)

// OnFailure says what happens to a run when a step has failed for good.
type OnFailure string

// The reactions to a failed step. Stop is the default: nothing new starts, what runs is finished.
const (
	OnFailureStop     OnFailure = "stop"
	OnFailureContinue OnFailure = "continue" // steps that do not need this one go on
	OnFailureUndo     OnFailure = "undo"     // stop, then undo in reverse order
	OnFailurePause    OnFailure = "pause"    // stop and wait for `muster runs resume`
)

// Step is one step of a plan.
//
// In a document, ID is lower-case words joined by '-'. The steps that an include-plan step becomes
// have its ID, a dot and their own: "dns.switch". Nothing else has a dot in its ID.
type Step struct {
	ID    string   `yaml:"id" json:"id"`
	Uses  string   `yaml:"uses" json:"uses"`
	Needs []string `yaml:"needs,omitempty" json:"needs,omitempty"`
	// With holds the step's own settings; their fields are checked against the step's type. Texts,
	// however deep, may hold expressions: ${ params.zone }. See Checked.Expand.
	With map[string]any `yaml:"with,omitempty" json:"with,omitempty"`
	// ForEach fans the step out into items: a list, or a CEL expression that gives one.
	ForEach     any    `yaml:"forEach,omitempty" json:"forEach,omitempty"`
	MaxParallel int    `yaml:"maxParallel,omitempty" json:"maxParallel,omitempty"`
	When        string `yaml:"when,omitempty" json:"when,omitempty"`
	// Timeout bounds one attempt of one task; 0 means none.
	Timeout   Duration  `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	Retry     Retry     `yaml:"retry,omitempty" json:"retry"`
	OnFailure OnFailure `yaml:"onFailure,omitempty" json:"onFailure,omitempty"`
	// Optional says that the run does not depend on this step. When it has failed for good, that is
	// reported, its other items still run, steps that need it go on without its receipt, and the run
	// counts as complete all the same. Expressions ask has(receipts.<id>) whether the receipt is there.
	// It goes with no onFailure but continue, which differs: there, steps that need the failed one are
	// blocked, and the run has failed in the end.
	Optional bool `yaml:"optional,omitempty" json:"optional,omitempty"`
	// Locks names what this step must have for itself, among all runs that share the state: from
	// before its first task starts until its last one has ended. The runner adds locks of its own for
	// the layers of a cluster that steps touch; theirs have a '/' in their names, and these none.
	Locks []string `yaml:"locks,omitempty" json:"locks,omitempty"`
}

// Retry bounds how often a task that failed with a retryable kind is tried, and how long it waits in
// between: Backoff before the second attempt, and twice as long before each further one, but never
// longer than MaxBackoff. The runner shortens each wait at random, so that tasks which failed
// together are not tried together.
type Retry struct {
	Attempts   int      `yaml:"attempts,omitempty" json:"attempts,omitempty"`     // in all; 0 means 3
	Backoff    Duration `yaml:"backoff,omitempty" json:"backoff,omitempty"`       // 0 means 1s
	MaxBackoff Duration `yaml:"maxBackoff,omitempty" json:"maxBackoff,omitempty"` // 0 means 5m, or Backoff if that is longer
}

// The defaults of Retry.
const (
	DefaultAttempts   = 3
	DefaultBackoff    = Duration(time.Second)
	DefaultMaxBackoff = Duration(5 * time.Minute)
)

// WithDefaults fills in what the plan leaves open.
func (r Retry) WithDefaults() Retry {
	if r.Attempts == 0 {
		r.Attempts = DefaultAttempts
	}
	if r.Backoff == 0 {
		r.Backoff = DefaultBackoff
	}
	if r.MaxBackoff == 0 {
		r.MaxBackoff = max(DefaultMaxBackoff, r.Backoff)
	}
	return r
}

// Wait is how long to wait, at most, after the given attempt (1 is the first) has failed.
func (r Retry) Wait(attempt int) time.Duration {
	r = r.WithDefaults()
	wait := r.Backoff
	for ; attempt > 1 && wait < r.MaxBackoff; attempt-- {
		wait = min(2*wait, r.MaxBackoff) // no overflow: a checked MaxBackoff is at most a day
	}
	return time.Duration(min(wait, r.MaxBackoff))
}

// Duration is a time.Duration that documents write as "90s", "30m" or "36h".
type Duration time.Duration
