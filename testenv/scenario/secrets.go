package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/musterdr/muster/testenv/workload"
)

// secrets are byte strings that must stand nowhere but in the cluster, the repository's encrypted
// blobs and the key file.
func (s *Scenario) secrets() (map[string][]byte, error) {
	found := map[string][]byte{"data of Secrets": []byte(workload.SecretMarker)}
	key, err := os.ReadFile(s.path("muster.key"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(key)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if ok && !strings.HasPrefix(line, "#") && len(value) > 20 && !strings.HasPrefix(value, "ed25519:") {
			found["the key file's "+name] = []byte(value)
		}
	}
	ssh, err := os.ReadFile(s.Lab.KeyFile())
	if err != nil {
		return nil, err
	}
	found["the SSH key"] = []byte(strings.Split(string(ssh), "\n")[2])
	return found, nil
}

// FindSecrets looks for planted secrets in every file under the scenario's folder (logs, journal,
// state, repository) but the key file, and in what the watcher of process lists saw.
func (s *Scenario) FindSecrets(seen []byte) ([]string, error) {
	secrets, err := s.secrets()
	if err != nil {
		return nil, err
	}
	if len(secrets) < 3 {
		return nil, fmt.Errorf("%d planted secrets: the key file has another form than this test knows", len(secrets))
	}
	var found []string
	look := func(place string, content []byte) {
		for name, secret := range secrets {
			if bytes.Contains(content, secret) {
				found = append(found, name+" in "+place)
			}
		}
	}
	look("the process list", seen)
	err = filepath.WalkDir(s.config.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == s.path("muster.key") {
			return err
		}
		content, err := os.ReadFile(path)
		look(path, content)
		return err
	})
	return found, err
}

// WatchProcesses collects the command lines of all processes until the returned function ends it.
func WatchProcesses(ctx context.Context) (stop func() []byte) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	lines := map[string]bool{}
	watching.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, path := range paths {
				line, _ := os.ReadFile(path) // it may have ended
				lines[string(line)] = true
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
	return func() []byte {
		cancel()
		watching.Wait()
		var all bytes.Buffer
		for line := range lines {
			all.WriteString(line + "\n")
		}
		return all.Bytes()
	}
}
