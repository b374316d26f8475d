package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// Config says what is played.
type Config struct {
	Cluster testenv.Config
	Size    workload.Size
	Dir     string    // repository, key, documents, logs
	Muster  string    // the command's path
	Plugins string    // folder with providers' programs and providers.pins; empty without volumes
	Out     io.Writer // what a person follows

	Environment []string // of muster, beside what is there: "NAME=value"
}

// Scenario is one cluster's story.
type Scenario struct {
	config Config
	Lab    *testenv.Lab

	Point    string    // the recovery point, once captured
	Revision int64     // its etcd revision
	Lost     time.Time // when the machines were destroyed
	Before   workload.State
	marks    map[string]string // machine to digest of its marker files
	disk     string            // digest of the attached disk's content
	diskOn   string            // the machine it was attached to
	writer   *writer
	tokens   [][]byte

	bank       *bank        // once it was opened
	banked     capturedBank // what the point holds of it
	bankedMost int          // transactions that were sent when its capture had ended

	// Databases are lines of YAML below spec of the Cluster document.
	Databases string
	// Storage are lines of YAML below spec.storage, of the Cluster document and then of the Machines
	// document.
	Storage string
}

// Disk is the attached disk that Fill puts a filesystem on.
const (
	Disk      = "vdb"
	mountedAt = "/data"
)

// New makes the lab's cluster.
func New(ctx context.Context, config Config) (*Scenario, error) {
	s := &Scenario{config: config, marks: map[string]string{}}
	for _, dir := range []string{config.Dir, s.path("state")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	s.Lab, err = testenv.Up(ctx, config.Cluster, s.say)
	return s, err
}

func (s *Scenario) say(format string, args ...any) {
	fmt.Fprintf(s.config.Out, time.Now().Format("15:04:05  ")+format+"\n", args...)
}

func (s *Scenario) path(name string) string { return filepath.Join(s.config.Dir, name) }

// Path is a file of the scenario: "repository", "muster.key", "capture.log".
func (s *Scenario) Path(name string) string { return s.path(name) }

// restConfig reaches a lab's cluster as administrator.
func restConfig(l *testenv.Lab) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.KubeconfigFile())
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = -1, 0
	return config, nil
}

func kubeClient(l *testenv.Lab) (*kubernetes.Clientset, error) {
	config, err := restConfig(l)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

// Fill gives the cluster objects, the machines marker files, and the disk a filesystem with content.
func (s *Scenario) Fill(ctx context.Context) error {
	if err := loadWebhook(ctx, s.path("webhook-image")); err != nil {
		return err
	}
	config, err := restConfig(s.Lab)
	if err != nil {
		return err
	}
	s.say("filling the cluster: %d namespaces", s.config.Size.Namespaces)
	if err := workload.Fill(ctx, config, s.config.Size); err != nil {
		return err
	}
	for _, name := range s.Members() {
		if s.marks[name], err = s.mark(ctx, name); err != nil {
			return err
		}
	}
	s.disk, err = s.fillDisk(ctx)
	return err
}

// webhookImage is the admission webhook's, built from testenv/cmd/webhook.
const webhookImage = "lab.local/webhook:1"

func loadWebhook(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := testenv.GoBuild(ctx, "./testenv/cmd/webhook", filepath.Join(dir, "webhook")); err != nil {
		return err
	}
	return testenv.LoadImage(ctx, dir, webhookImage)
}

// Size is what scenarios fill a cluster with, in the given number of namespaces.
func Size(namespaces, pairs int) workload.Size {
	return workload.Size{Namespaces: namespaces, Pairs: pairs, Running: 2, Custom: 20, Busybox: testenv.BusyboxImage, Webhook: webhookImage}
}

// Members are the machines of the cluster.
func (s *Scenario) Members() []string {
	var names []string
	for _, name := range s.Lab.Names() {
		if role := s.Lab.State.Machines[name].Role; role == testenv.RoleControlPlane || role == testenv.RoleWorker {
			names = append(names, name)
		}
	}
	return names
}

// machineWithDisk is empty when the lab has no disk.
func (s *Scenario) machineWithDisk() string {
	for _, name := range s.Members() {
		if len(s.Lab.State.Machines[name].Disks) > 0 {
			return name
		}
	}
	return ""
}

// Init makes repository, key and inventory.
func (s *Scenario) Init(ctx context.Context) error {
	documents := s.Lab.Inventory() + s.storage() + s.Databases + fmt.Sprintf("---\napiVersion: muster.dev/v1alpha1\nkind: Repository\nmetadata: {name: vault}\nspec: {url: \"file://%s\", keyFile: %s}\n",
		s.path("repository"), s.path("muster.key"))
	if err := os.WriteFile(s.path("muster.yaml"), []byte(documents), 0o600); err != nil {
		return err
	}
	return s.Run(ctx, "init", nil, "init", "--repository", s.path("repository"), "--key-file", s.path("muster.key"))
}

// storage ends a document's spec.
func (s *Scenario) storage() string {
	if s.Storage == "" {
		return ""
	}
	return "  storage:\n" + s.Storage
}

// Run runs muster and keeps its output under <log>.out and <log>.err; the error holds its end.
func (s *Scenario) Run(ctx context.Context, log string, stdout io.Writer, args ...string) error {
	c, closeLogs, err := s.Command(ctx, log, stdout, args...)
	if err != nil {
		return err
	}
	defer closeLogs()
	if err := c.Run(); err != nil {
		text, _ := os.ReadFile(s.path(log + ".err"))
		return fmt.Errorf("muster %s: %w:\n%s", strings.Join(args, " "), err, lastLines(string(text), 15))
	}
	return nil
}

// Command is muster, to be started by the caller.
func (s *Scenario) Command(ctx context.Context, log string, stdout io.Writer, args ...string) (*exec.Cmd, func(), error) {
	out, err := os.OpenFile(s.path(log+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	diagnostics, err := os.OpenFile(s.path(log+".err"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, errors.Join(err, out.Close())
	}
	args = append(args, "--state-dir", s.path("state"))
	if s.config.Plugins != "" {
		args = append(args, "--plugins", s.config.Plugins, "--pins", filepath.Join(s.config.Plugins, "providers.pins"))
	}
	c := exec.CommandContext(ctx, s.config.Muster, args...)
	c.Dir = s.config.Dir
	c.Env = append(os.Environ(), s.config.Environment...)
	c.Stdout, c.Stderr = io.Writer(out), diagnostics
	if stdout != nil {
		c.Stdout = io.MultiWriter(out, stdout)
	}
	return c, func() { out.Close(); diagnostics.Close() }, nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Capture makes a recovery point while somebody writes to the cluster, and reads by itself what was
// there at the point's revision.
func (s *Scenario) Capture(ctx context.Context) error {
	if err := s.StartWriter(ctx); err != nil {
		return err
	}
	if s.bank != nil {
		if err := s.StartBankWriter(ctx); err != nil {
			return err
		}
	}
	err := s.Run(ctx, "capture", nil, "run", "capture")
	return errors.Join(err, s.EndCapture(ctx))
}

// StartWriter starts to change the cluster.
func (s *Scenario) StartWriter(ctx context.Context) error {
	client, err := kubeClient(s.Lab)
	if err != nil {
		return err
	}
	s.writer, err = startWriter(ctx, client)
	return err
}

// EndCapture ends the writing and looks at the newest recovery point.
func (s *Scenario) EndCapture(ctx context.Context) error {
	if err := s.writer.stop(); err != nil {
		return err
	}
	var manifest struct {
		ID   string `json:"id"`
		Etcd struct {
			Revision int64 `json:"revision"`
		} `json:"etcd"`
	}
	if err := s.query(ctx, &manifest, "points", "show", "latest", "--output", "json"); err != nil {
		return err
	}
	s.Point, s.Revision = manifest.ID, manifest.Etcd.Revision
	if s.bank != nil {
		if err := s.endBankCapture(ctx); err != nil {
			return err
		}
	}
	config, err := restConfig(s.Lab)
	if err != nil {
		return err
	}
	s.Before, err = workload.List(ctx, config, strconv.FormatInt(s.Revision, 10))
	s.say("recovery point %s at revision %d: %d objects", s.Point, s.Revision, len(s.Before))
	return err
}

// query decodes what a muster verb answers as JSON.
func (s *Scenario) query(ctx context.Context, into any, args ...string) error {
	var out bytes.Buffer
	if err := s.Run(ctx, "query", &out, args...); err != nil {
		return err
	}
	return json.Unmarshal(out.Bytes(), into)
}

// Destroy ends every machine of the lab, and the state of the host that ran muster.
func (s *Scenario) Destroy(ctx context.Context) error {
	s.Lost = time.Now().UTC()
	for _, name := range s.Lab.Names() {
		s.say("destroying %s", name)
		if err := s.Lab.Destroy(ctx, name); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.path("state"))
}

// Rebuild runs the one command and reads its report.
func (s *Scenario) Rebuild(ctx context.Context, l *testenv.Lab, endpoint string, targets ...testenv.Target) (Report, error) {
	args, err := s.RebuildArgs(l, endpoint, targets...)
	if err != nil {
		return Report{}, err
	}
	s.say("rebuilding on %d blank machines", len(targets))
	runErr := s.Run(ctx, "rebuild", nil, args...)
	report, err := s.ReadReport()
	return report, errors.Join(runErr, err)
}

// RebuildArgs writes the Machines document and returns the command line.
func (s *Scenario) RebuildArgs(l *testenv.Lab, endpoint string, targets ...testenv.Target) ([]string, error) {
	document, err := l.MachinesDocument(endpoint, targets...)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.path("machines.yaml"), []byte(document+s.storage()), 0o600); err != nil {
		return nil, err
	}
	return []string{"rebuild", "--repository", "file://" + s.path("repository"), "--key-file", s.path("muster.key"),
		"--machines", s.path("machines.yaml"), "--lost-at", s.Lost.Format(time.RFC3339), "--report", s.path("report.json"), "--yes"}, nil
}

// Report is the part of muster's own report that scenarios read.
type Report struct {
	Verdict string  `json:"verdict"`
	RPO     float64 `json:"rpoSeconds"`
	RTO     float64 `json:"rtoSeconds"`
	Steps   []struct {
		ID      string  `json:"id"`
		State   string  `json:"state"`
		Seconds float64 `json:"seconds"`
		Done    struct {
			Bytes int64 `json:"bytes"`
			Items int64 `json:"items"`
		} `json:"done"`
	} `json:"steps"`
	Layers []struct {
		Layer    string `json:"layer"`
		Unit     string `json:"unit"`
		Expected int64  `json:"expected"`
		Done     int64  `json:"done"`
		Bytes    int64  `json:"bytes"`
		Digest   string `json:"digest"`
		Text     string `json:"text"`
	} `json:"layers"`
	Findings []struct {
		Subject string `json:"subject"`
		Text    string `json:"text"`
	} `json:"findings"`
}

// ReadReport reads what rebuild wrote last.
func (s *Scenario) ReadReport() (Report, error) {
	var report Report
	raw, err := os.ReadFile(s.path("report.json"))
	if err != nil {
		return report, err
	}
	return report, json.Unmarshal(raw, &report)
}
