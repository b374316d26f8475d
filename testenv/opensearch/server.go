package opensearch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/musterdr/muster/testenv"
)

// Kind is which server it is.
type Kind struct {
	jars   string // folder of its pom.xml in testenv
	config string // name of its settings' file
	class  string
}

// The kinds of servers.
var (
	OpenSearch    = Kind{"opensearch", "opensearch.yml", "org.codelibs.opensearch.runner.OpenSearchRunner"}
	Elasticsearch = Kind{"opensearch/elasticsearch", "elasticsearch.yml", "org.codelibs.elasticsearch.runner.ElasticsearchClusterRunner"}
)

// Server is one node.
type Server struct {
	Dir     string // holds data, snapshots and log
	Port    string
	shared  []string // more folders of path.repo
	kind    Kind
	jars    string
	process *exec.Cmd
	ended   chan struct{} // closed when process has ended
}

// Need starts a server for one test, with more folders of path.repo. Where none can be, the test is skipped, or fails
// when CI is set.
func Need(t testing.TB, kind Kind, shared ...string) *Server {
	t.Helper()
	testenv.Need(t)
	jars, err := testenv.Jars(t.Context(), kind.jars)
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.Install(t.Context(), "curl"); err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: t.TempDir(), shared: shared, kind: kind, jars: jars}
	t.Cleanup(s.Stop)
	if err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Snapshots is a folder of path.repo of its own.
func (s *Server) Snapshots() string { return filepath.Join(s.Dir, "snapshots") }

// start starts the node, and waits until it takes requests.
func (s *Server) start(ctx context.Context) error {
	home := filepath.Join(s.Dir, "node_1") // where the runner expects it
	if err := errors.Join(os.MkdirAll(filepath.Join(home, "config"), 0o755), os.MkdirAll(s.Snapshots(), 0o755)); err != nil {
		return err
	}
	// Without the threshold, what else is on the disk is not its affair: at 90 % it would make no index any more.
	config := "network.host: 127.0.0.1\ntransport.port: 0\ndiscovery.type: single-node\ncluster.routing.allocation.disk.threshold_enabled: false\npath.repo: [" + strings.Join(append(s.shared, s.Snapshots()), ", ") + "]\n"
	if err := os.WriteFile(filepath.Join(home, "config", s.kind.config), []byte(config), 0o644); err != nil {
		return err
	}
	port, err := free()
	if err != nil {
		return err
	}
	s.Port = strconv.Itoa(port)
	log, err := os.Create(filepath.Join(s.Dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	// The first node's port is the one after the base.
	s.process, s.ended = exec.Command("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", s.jars+"/*", s.kind.class,
		"-basePath", s.Dir, "-numOfNode", "1", "-baseHttpPort", strconv.Itoa(port-1)), make(chan struct{})
	s.process.Dir, s.process.Stdout, s.process.Stderr = s.Dir, log, log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		return err
	}
	go func() {
		_ = s.process.Wait() // how it ended says its log
		close(s.ended)
	}()
	for {
		select {
		case <-s.ended:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the node ended\n%s", text)
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if _, err := s.Do(ctx, http.MethodGet, "/_cluster/health?wait_for_status=yellow", ""); err == nil {
			return nil
		}
	}
}

// free is a port that nobody has, of those that the runner takes.
func free() (int, error) {
	const first, ports = 9201, 99
	begin := rand.IntN(ports) // others look for one at the same time
	for i := range ports {
		port := first + (begin+i)%ports
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no port from 9201 on is free")
}

// Stop ends the node, as a power cut does.
func (s *Server) Stop() {
	if s.process != nil && s.process.Process != nil {
		_ = s.process.Process.Kill() // it may have ended
		<-s.ended
	}
}

// Do asks the server, and returns its answer. A status of 400 and more is an error.
func (s *Server) Do(ctx context.Context, method, path, body string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1:"+s.Port+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 400 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	return string(bytes.TrimSpace(answer)), err
}

// Must is Do for tests.
func (s *Server) Must(t testing.TB, method, path, body string) string {
	t.Helper()
	answer, err := s.Do(t.Context(), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// Wipe removes all indices, data streams, templates, repositories and persistent settings.
func (s *Server) Wipe(t testing.TB) {
	t.Helper()
	if s.kind == OpenSearch { // the other's have none
		s.Must(t, http.MethodDelete, "/_data_stream/*", "")
	}
	for _, path := range []string{"/*?expand_wildcards=all", "/_template/*", "/_index_template/*", "/_snapshot/*"} {
		if _, err := s.Do(t.Context(), http.MethodDelete, path, ""); err != nil && !strings.Contains(err.Error(), "404") {
			t.Fatal(err)
		}
	}
	s.Must(t, http.MethodPut, "/_cluster/settings", `{"persistent":{"*":null}}`)
}
