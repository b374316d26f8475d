package repository

import "time"

// ManifestVersion is the newest manifest format that this program reads. Seal writes the oldest that a
// manifest's content allows: 3 with databases, 2 with volumes, else 1.
const ManifestVersion = 3

func (m Manifest) oldestVersion() int {
	switch {
	case len(m.Databases)+len(m.DatabaseLogs) > 0:
		return 3
	case len(m.Volumes) > 0:
		return 2
	default:
		return 1
	}
}

// Manifest describes one recovery point: manifest.json at the point's root. docs/formats/manifest.md is its
// specification. Digests are lower-case hexadecimal SHA-256 unless said otherwise; times are UTC.
type Manifest struct {
	Version    int       `json:"version"`
	ID         string    `json:"id"` // the recovery point's: <cluster>-<UTC time of its revision>
	Cluster    string    `json:"cluster"`
	Created    time.Time `json:"created"` // when it was sealed
	Run        string    `json:"run"`
	Plan       string    `json:"plan"`
	PlanDigest string    `json:"planDigest"`

	Etcd       *EtcdLayer       `json:"etcd,omitempty"`
	Namespaces *NamespacesLayer `json:"namespaces,omitempty"`
	Machines   []MachineLayer   `json:"machines,omitempty"`
	Volumes    []VolumeLayer    `json:"volumes,omitempty"`
	// VolumesLeft names volumes of the cluster that were not captured, and why.
	VolumesLeft []LeftOut `json:"volumesLeft,omitempty"`
	// CloudMachines are machines that can be made again with the volumes that were captured of them.
	CloudMachines []CloudMachine  `json:"cloudMachines,omitempty"`
	Databases     []DatabaseLayer `json:"databases,omitempty"`
	// DatabaseLogs are the databases' logs of changes, from the oldest that a backup needs on.
	DatabaseLogs []DatabaseLogsLayer `json:"databaseLogs,omitempty"`

	// Instant is the moment the point stands for: that of the etcd snapshot, else of the namespaces'
	// revision. RPO is counted from here.
	Instant time.Time `json:"instant"`
	// SkewSeconds is the time between the first and the last layer's instant.
	SkewSeconds float64 `json:"skewSeconds"`
}

// Content names one file of a recovery point and what it must contain.
type Content struct {
	Path   string `json:"path"` // from the point's root
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	// Rule says how SHA256 was computed where it is not simply over the file.
	Rule string `json:"rule,omitempty"`
}

// EtcdLayer describes etcd/snapshot.db and the state it was taken in.
type EtcdLayer struct {
	Snapshot    Content      `json:"snapshot"`
	Taken       time.Time    `json:"taken"`
	Revision    int64        `json:"revision"`  // the newest in the snapshot
	RaftIndex   uint64       `json:"raftIndex"` // highest seen on any member
	Version     string       `json:"version"`   // etcd's
	ClusterID   string       `json:"clusterID"` // hexadecimal
	HashKV      uint32       `json:"hashKV"`    // equal on all members at HashRevision
	HashRev     int64        `json:"hashRevision"`
	Members     []EtcdMember `json:"members"`
	Kubernetes  string       `json:"kubernetes"` // the API server's version
	Encryption  bool         `json:"encryption"` // an EncryptionConfiguration is in force
	Fingerprint Fingerprints `json:"fingerprints"`
}

// EtcdMember is one member as it was.
type EtcdMember struct {
	ID         string   `json:"id"` // hexadecimal
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Version    string   `json:"version"`
	DBSize     int64    `json:"dbSize"`
	Healthy    bool     `json:"healthy"`
}

// Fingerprints identify the keys that the snapshot's content belongs to: SHA-256 over the DER form
// of each certificate, or over the public key of the service-account key.
type Fingerprints struct {
	ClusterCA      string `json:"clusterCA,omitempty"`
	EtcdCA         string `json:"etcdCA,omitempty"`
	FrontProxyCA   string `json:"frontProxyCA,omitempty"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
}

// NamespacesLayer describes cluster/, namespaces/ and objects.jsonl.
type NamespacesLayer struct {
	Revision int64         `json:"revision"` // every kind was listed at exactly this one
	Taken    time.Time     `json:"taken"`
	Index    Content       `json:"index"` // objects.jsonl
	Kinds    []KindSummary `json:"kinds"`
	Objects  int           `json:"objects"`
	Digest   string        `json:"digest"` // over the sorted lines "<key> <object digest>\n"
	// Selection is what the plan chose; nil means every object, or that Left alone tells of it, as
	// before there were selections.
	Selection *Selection `json:"selection,omitempty"`
	// Left names what was not captured, or not at the revision, and why.
	Left []LeftOut `json:"left,omitempty"`
}

// Selection is which objects a plan chose: see docs/formats/manifest.md.
type Selection struct {
	Include          []string `json:"include,omitempty"`
	Exclude          []string `json:"exclude,omitempty"`
	Kinds            []string `json:"kinds,omitempty"`
	ExcludeKinds     []string `json:"excludeKinds,omitempty"`
	Selector         string   `json:"selector,omitempty"`
	FieldSelector    string   `json:"fieldSelector,omitempty"`
	Where            string   `json:"where,omitempty"`
	ClusterResources string   `json:"clusterResources,omitempty"`
}

// KindSummary counts one kind's objects.
type KindSummary struct {
	Group    string `json:"group"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
	Kind     string `json:"kind"`
	Count    int    `json:"count"`
	Digest   string `json:"digest"`
}

// LeftOut is something that a capture passed over.
type LeftOut struct {
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
}

// MachineLayer describes machines/<name>/.
type MachineLayer struct {
	Name    string        `json:"name"`
	Address string        `json:"address"`
	Role    string        `json:"role"`
	OS      string        `json:"os"`   // PRETTY_NAME of os-release
	Arch    string        `json:"arch"` // uname -m
	Kernel  string        `json:"kernel"`
	Taken   time.Time     `json:"taken"`
	Rootfs  Content       `json:"rootfs"`
	Devices []DeviceLayer `json:"devices,omitempty"`
	Exclude []string      `json:"exclude,omitempty"` // what the rootfs does not hold
}

// DeviceLayer describes one image of an attached device.
type DeviceLayer struct {
	Name       string  `json:"name"`
	Path       string  `json:"path"` // on the captured machine
	Image      Content `json:"image"`
	Filesystem string  `json:"filesystem,omitempty"`
	Mountpoint string  `json:"mountpoint,omitempty"`
	Frozen     bool    `json:"frozen"` // the filesystem was frozen while it was read
}
