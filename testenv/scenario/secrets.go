package scenario

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/testenv/workload"
)

// Tokens are what the cluster's service accounts and its administrator prove themselves with. They are
// read while the cluster lives.
func (s *Scenario) Tokens(ctx context.Context) error {
	client, err := kubeClient(s.Lab)
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
	if err != nil {
		return err
	}
	for _, secret := range list.Items {
		s.tokens = append(s.tokens, secret.Data[corev1.ServiceAccountTokenKey])
	}
	if len(s.tokens) == 0 {
		return errors.New("there are no tokens")
	}
	return s.readAdministrator()
}

// readAdministrator keeps the administrator's key.
func (s *Scenario) readAdministrator() error {
	config, err := restConfig(s.Lab)
	if err != nil {
		return err
	}
	key := bytes.Split(config.KeyData, []byte("\n"))
	if len(key) < 3 {
		return fmt.Errorf("a key of %d lines", len(key))
	}
	s.tokens = append(s.tokens, key[1], []byte(base64.StdEncoding.EncodeToString(config.KeyData)))
	return nil
}

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
	for i, token := range s.tokens {
		found[fmt.Sprintf("token or key %d of the cluster", i)] = token
	}
	return found, nil
}

// FindSecrets looks for planted secrets in every file under the scenario's folder (logs, journal,
// state, repository) but the key file, and in what the watcher of process lists saw.
func (s *Scenario) FindSecrets(seen []byte) ([]string, error) {
	secrets, err := s.secrets()
	if err != nil {
		return nil, err
	}
	if len(secrets) < 6 { // Secret data, password and seed, SSH key, a token, the administrator's key
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
