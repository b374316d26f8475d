package apiserver

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestServerIsReadyAndLeavesNothing(t *testing.T) {
	shared := &Shared{}
	server := shared.Need(t)
	if !strings.Contains(string(server.Kubeconfig), server.URL) {
		t.Errorf("the kubeconfig does not name %s", server.URL)
	}
	processes, dir := server.processes, server.dir
	if len(processes) != 2 {
		t.Fatalf("started %d processes, want etcd and kube-apiserver", len(processes))
	}
	if err := shared.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		if process.ProcessState == nil {
			t.Errorf("%s was not waited for", process.Path)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestMissingBinariesAreNamed(t *testing.T) {
	t.Setenv("MUSTER_KUBERNETES_BIN", t.TempDir())
	if _, err := binaries(); err == nil || !strings.Contains(err.Error(), "kube-apiserver") {
		t.Errorf("error is %v", err)
	}
	t.Setenv("MUSTER_KUBERNETES_BIN", "")
	t.Setenv("MUSTER_LAB_CACHE", t.TempDir())
	if _, err := binaries(); !errors.Is(err, errNoBinaries) {
		t.Errorf("error is %v", err)
	}
}
