package plans

// Database is one database server whose content is captured with its engine's own tools.
type Database struct {
	// Name is what plans and recovery points call it, best the namespace and the workload: "shop/ledger".
	Name string `yaml:"name" json:"name"`
	// Engine is a built-in engine, or a DatabaseEngine document: `muster database engines` lists both.
	Engine string `yaml:"engine" json:"engine"`
	// Where the engine's tools run: in the server's pod, on a machine over SSH, or in a pod that is made for the
	// task; else on the runner. From the last two they reach the server by the address among the settings.
	Pod     *DatabasePod    `yaml:"pod,omitempty" json:"pod,omitempty"`
	Machine string          `yaml:"machine,omitempty" json:"machine,omitempty"`
	Helper  *DatabaseHelper `yaml:"helper,omitempty" json:"helper,omitempty"`
	// Settings and Secrets are what the engine asks for: `muster database engines NAME` explains each.
	Settings map[string]string         `yaml:"settings,omitempty" json:"settings,omitempty"`
	Secrets  map[string]DatabaseSecret `yaml:"secrets,omitempty" json:"secrets,omitempty"`
}

// DatabasePod names a container that holds the engine's tools.
type DatabasePod struct {
	Namespace string `yaml:"namespace" json:"namespace"`
	Name      string `yaml:"name,omitempty" json:"name,omitempty"`
	// Selector chooses the first ready pod, by name, with these labels: "app=db,role=replica".
	Selector string `yaml:"selector,omitempty" json:"selector,omitempty"`
	// Primary chooses the pod that a restore goes to, where Selector chooses standbys.
	Primary string `yaml:"primary,omitempty" json:"primary,omitempty"`
	// Patroni chooses the pods of a Patroni cluster, and the objects in which it keeps its state, by the labels that they
	// have in common: "application=patroni,cluster-name=db".
	Patroni string `yaml:"patroni,omitempty" json:"patroni,omitempty"`
	// Container is by default the one that the pod names as its default, else its first.
	Container string `yaml:"container,omitempty" json:"container,omitempty"`
}

// DatabaseHelper is a pod that stands in the cluster for the time of a task, with an image that holds the engine's
// tools, sh and sleep.
type DatabaseHelper struct {
	Namespace string `yaml:"namespace" json:"namespace"`
	Image     string `yaml:"image" json:"image"`
	// ServiceAccount decides what the pod may be; by default it is the namespace's own. Its token is not mounted.
	ServiceAccount string `yaml:"serviceAccount,omitempty" json:"serviceAccount,omitempty"`
}

// DatabaseSecret says where a secret is; exactly one field is set.
type DatabaseSecret struct {
	File string `yaml:"file,omitempty" json:"file,omitempty"` // relative ones are resolved against the document's folder
	Env  string `yaml:"env,omitempty" json:"env,omitempty"`   // a variable of the runner's environment
	// Key is of a Secret in the cluster, read when it is needed.
	Key *SecretKey `yaml:"secret,omitempty" json:"secret,omitempty"`
}

// SecretKey names one value of a Kubernetes Secret.
type SecretKey struct {
	Namespace string `yaml:"namespace" json:"namespace"`
	Name      string `yaml:"name" json:"name"`
	Key       string `yaml:"key" json:"key"`
}

// Engine is a DatabaseEngine document: how one kind of database is captured and brought back. Its scripts
// are for sh and run where the database's tools are; docs/databases.md tells what they find and must say.
type Engine struct {
	Metadata Metadata   `yaml:"metadata" json:"metadata"`
	Spec     EngineSpec `yaml:"spec" json:"spec"`
}

// EngineSpec is the content of a DatabaseEngine document.
type EngineSpec struct {
	// Extends names a built-in engine that gives whatever is left out here; maps are merged by key.
	Extends string `yaml:"extends,omitempty" json:"extends,omitempty"`
	Title   string `yaml:"title,omitempty" json:"title,omitempty"`
	// Definition is the definition's version. It grows with every change, and recovery points keep it.
	Definition int `yaml:"definition,omitempty" json:"definition,omitempty"`
	// Unverified says why nobody has seen this engine work; empty for one that tests run against a real server.
	Unverified string                   `yaml:"unverified,omitempty" json:"unverified,omitempty"`
	Discover   EngineDiscovery          `yaml:"discover,omitempty" json:"discover"`
	Settings   map[string]EngineSetting `yaml:"settings,omitempty" json:"settings,omitempty"`
	Secrets    map[string]EngineSetting `yaml:"secrets,omitempty" json:"secrets,omitempty"`
	// Tools are programs that must be where the scripts run.
	Tools []string `yaml:"tools,omitempty" json:"tools,omitempty"`
	// Prelude runs before each of the scripts, in the same shell.
	Prelude string `yaml:"prelude,omitempty" json:"prelude,omitempty"`
	// Server prints the server's version.
	Server string `yaml:"server,omitempty" json:"server,omitempty"`
	// Digest prints a digest line for each table or collection.
	Digest string `yaml:"digest,omitempty" json:"digest,omitempty"`
	// Query runs the statement in $QUERY, in the database $SCOPE, and prints its rows as JSON, one a line.
	Query string `yaml:"query,omitempty" json:"query,omitempty"`
	// Quiesce keeps all writers of the server waiting while snapshots are taken of its volumes: it prints facts, and
	// then the line `ready`, and lets go when its input ends, or by itself after $QUIESCE_SECONDS.
	Quiesce string                `yaml:"quiesce,omitempty" json:"quiesce,omitempty"`
	Modes   map[string]EngineMode `yaml:"modes,omitempty" json:"modes,omitempty"`
	// Logs is how the server's log of changes is archived; nil where it can't be.
	Logs *EngineLogs `yaml:"logs,omitempty" json:"logs,omitempty"`
	// Mode is the one that is taken when nobody says.
	Mode   string        `yaml:"mode,omitempty" json:"mode,omitempty"`
	Errors []EngineError `yaml:"errors,omitempty" json:"errors,omitempty"`
}

// EngineDiscovery tells by what a database of this kind is recognised in a cluster.
type EngineDiscovery struct {
	Images []string `yaml:"images,omitempty" json:"images,omitempty"` // patterns of the image's last path element, without tag: "postgres*"
	Ports  []int    `yaml:"ports,omitempty" json:"ports,omitempty"`
	// Operators are kinds of objects that operators make databases of: "clusters.postgresql.cnpg.io".
	Operators []string `yaml:"operators,omitempty" json:"operators,omitempty"`
}

// EngineSetting is something that a database's entry may, or must, give.
type EngineSetting struct {
	Text     string `yaml:"text" json:"text"`
	Default  string `yaml:"default,omitempty" json:"default,omitempty"`
	Required bool   `yaml:"required,omitempty" json:"required,omitempty"`
}

// EngineMode is one way to capture a database: "logical", "physical".
type EngineMode struct {
	Text string `yaml:"text" json:"text"`
	// PointInTime says that the capture is one instant of the whole server.
	PointInTime bool `yaml:"pointInTime,omitempty" json:"pointInTime,omitempty"`
	// Parallel bounds the parts that are moved at once; 0 means 1.
	Parallel int `yaml:"parallel,omitempty" json:"parallel,omitempty"`
	// Stopped says that the server must not run while the mode is restored: its pod's workload is scaled to nothing.
	Stopped bool `yaml:"stopped,omitempty" json:"stopped,omitempty"`
	// Check prints a problem line for everything that would make a backup fail or be less than it seems.
	Check string `yaml:"check,omitempty" json:"check,omitempty"`
	// Session holds the instant: it prints facts, and then the line `ready`, and lasts until its input ends.
	Session string `yaml:"session,omitempty" json:"session,omitempty"`
	// Holds says that the session keeps writers waiting until every part that wants the instant has it.
	Holds bool `yaml:"holds,omitempty" json:"holds,omitempty"`
	// Parts prints a part line for each stream that the backup consists of.
	Parts string `yaml:"parts,omitempty" json:"parts,omitempty"`
	// Backup writes one part to standard output.
	Backup string `yaml:"backup,omitempty" json:"backup,omitempty"`
	// Target prints a problem line for everything that would make a restore fail, or lose what is there.
	Target string `yaml:"target,omitempty" json:"target,omitempty"`
	// Begin, Restore for each part by its phase, and Finish bring a backup back. All can be repeated.
	Begin   string `yaml:"begin,omitempty" json:"begin,omitempty"`
	Restore string `yaml:"restore,omitempty" json:"restore,omitempty"`
	Finish  string `yaml:"finish,omitempty" json:"finish,omitempty"`
	// Empty takes away what another member of the server's cluster holds, so that it copies the restored one.
	Empty string `yaml:"empty,omitempty" json:"empty,omitempty"`
}

// EngineError gives what a tool says the kind of error that it is, and what to do about it.
type EngineError struct {
	Match string `yaml:"match" json:"match"` // a regular expression (RE2) over standard error
	Kind  string `yaml:"kind" json:"kind"`   // a fault.Kind
	Text  string `yaml:"text,omitempty" json:"text,omitempty"`
}

// EngineLogs is how a server's log of changes is archived, file by file. Positions are text that orders as
// the log does.
type EngineLogs struct {
	// Prepare has the server keep its log until it is released. It can be repeated.
	Prepare string `yaml:"prepare" json:"prepare"`
	// Switch completes the present file.
	Switch string `yaml:"switch,omitempty" json:"switch,omitempty"`
	// List prints a log line for each complete file that ends after $AFTER: name, bytes, and the positions at
	// which it begins and ends, which are empty for a file that is no stretch of the log.
	List string `yaml:"list" json:"list"`
	// Read writes the file $LOG, of $BYTES bytes.
	Read string `yaml:"read" json:"read"`
	// Release lets go of everything before the position $UPTO.
	Release string `yaml:"release" json:"release"`
	// Locate prints the fact `position` of a target of recovery, where $UNTIL_... and the archived logs' names and
	// positions tell it.
	Locate string `yaml:"locate,omitempty" json:"locate,omitempty"`
}
