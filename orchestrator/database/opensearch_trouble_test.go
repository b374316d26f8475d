package database_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/opensearch"
)

func searchTrouble(t *testing.T, s *opensearch.Server) {
	s.Wipe(t)
	searchContent(t, s)
	t.Run("denied", func(t *testing.T) { searchDenied(t, s) })
	t.Run("folder", func(t *testing.T) { searchFolder(t, s) })
	t.Run("backup is cut", func(t *testing.T) { searchCut(t, s) })
	t.Run("snapshot is cut", func(t *testing.T) { searchAbort(t, s) })
	t.Run("session is killed", func(t *testing.T) { searchKilled(t, s) })
	t.Run("stream is not whole", func(t *testing.T) { searchTruncated(t, s) })
	t.Run("version", func(t *testing.T) { searchVersions(t, s) })
	t.Run("red", func(t *testing.T) { searchRed(t, s) })
	t.Run("empty", func(t *testing.T) { searchEmpty(t, s) })
}

func searchBackup(t *testing.T, server *database.Server, config database.BackupConfig) (database.Backup, error) {
	t.Helper()
	if config.Store == nil {
		config.Store = newRepository(t)
	}
	if config.Progress == nil {
		config.Progress = progress{}
	}
	config.Now = time.Now
	return server.Backup(t.Context(), config)
}

func searchDenied(t *testing.T, s *opensearch.Server) {
	account := func(password string, change map[string]string, denied ...string) *database.Server {
		port, caFile := s.WithAccount(t, denied...)
		settings := map[string]string{"scheme": "https", "port": port, "caFile": caFile, "user": opensearch.User}
		for name, value := range change {
			settings[name] = value
		}
		return searching{settings: settings, password: password}.at(t, s)
	}
	for name, test := range map[string]struct {
		server *database.Server
		want   string
	}{
		"wrong password":   {account("planted-wrong", nil), "secrets.password"},
		"other user":       {account(opensearch.Password, map[string]string{"user": `a"b\`}), "settings.user"},
		"unknown TLS":      {account(opensearch.Password, map[string]string{"caFile": ""}), "settings.caFile"},
		"may not register": {account(opensearch.Password, nil, "/_snapshot"), "cluster:admin/repository/put"},
	} {
		_, err := test.server.Check(t.Context(), "")
		if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", name, err)
		}
		_, err = searchBackup(t, test.server, database.BackupConfig{})
		if fault.KindOf(err) != fault.Denied || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", name, err)
		}
	}
	allowed := account(opensearch.Password, nil)
	if problems, err := allowed.Check(t.Context(), ""); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if _, err := searchBackup(t, allowed, database.BackupConfig{Digests: true}); err != nil {
		t.Error(err)
	}
	// A list by name would wait for the index that is not there.
	unlisted := account(opensearch.Password, map[string]string{"exclude": "nobody"}, "/_cat/indices/")
	if problems, err := unlisted.Check(t.Context(), ""); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	_, err := searching{settings: map[string]string{"port": "1"}}.at(t, s).Check(t.Context(), "")
	if fault.KindOf(err) != fault.Transient {
		t.Error(err)
	}
}

func searchFolder(t *testing.T, s *opensearch.Server) {
	other := t.TempDir()
	for folder, want := range map[string]fault.Kind{"": fault.Invalid, other: fault.Invalid, other + "/none": fault.NotFound} {
		server := searching{settings: map[string]string{"folder": folder}}.at(t, s)
		if folder == "" {
			server = searching{change: func(e *plans.EngineSpec) { e.Prelude = "DB_FOLDER=\n" + e.Prelude }}.at(t, s)
		}
		problems, err := server.Check(t.Context(), "")
		if err != nil || len(problems) != 1 || fault.KindOf(server.Refused("check", problems)) != want {
			t.Errorf("%s: %v, %v", folder, problems, err)
		}
	}
	_, err := searchBackup(t, searching{settings: map[string]string{"folder": other}}.at(t, s), database.BackupConfig{})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "path.repo") {
		t.Error(err)
	}
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
}

// A backup that is given up, and one of which a stream fails, record nothing and leave nothing at the server.
func searchCut(t *testing.T, s *opensearch.Server) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := searching{}.at(t, s).Backup(ctx, database.BackupConfig{Store: newRepository(t), Progress: &onBytes{call: cancel}, Now: time.Now})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
	fails := func(e *plans.EngineSpec) {
		mode := e.Modes["files"]
		mode.Backup = strings.Replace(mode.Backup, "tar -c", "head -c 100 /dev/zero; rm -r \"$DB_FOLDER/$own/indices\"; tar -c", 1)
		e.Modes["files"] = mode
	}
	backup, err := searchBackup(t, searching{change: fails}.at(t, s), database.BackupConfig{})
	if err == nil || len(backup.Facts) > 0 {
		t.Error(backup, err)
	}
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
}

// A snapshot that is under way when a backup is given up ends with it.
func searchAbort(t *testing.T, s *opensearch.Server) {
	slow := func(e *plans.EngineSpec) {
		e.Prelude = strings.Replace(e.Prelude, `\"location\":`, `\"max_snapshot_bytes_per_sec\":\"1kb\",\"location\":`, 1)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for t.Context().Err() == nil {
			if status, err := s.Do(t.Context(), "GET", "/_snapshot/_status?filter_path=snapshots.state", ""); err == nil && strings.Contains(status, "STARTED") {
				return
			}
		}
	}()
	_, err := searching{change: slow}.at(t, s).Backup(ctx, database.BackupConfig{Store: newRepository(t), Progress: whenHeld{call: func() { t.Error("it was not slow: the test shows nothing") }}, Now: time.Now})
	if err == nil {
		t.Error("it ended well")
	}
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
	if status := s.Must(t, "GET", "/_snapshot/_status", ""); status != `{"snapshots":[]}` {
		t.Error(status)
	}
}

// What a killed session left goes with the next one, of whatever run, and is told of until then.
func searchKilled(t *testing.T, s *opensearch.Server) {
	_, err := searchBackup(t, searching{token: "aaaa"}.at(t, s), database.BackupConfig{Progress: whenHeld{call: func() {
		text, err := os.ReadFile(filepath.Join(s.Snapshots(), "muster-aaaa.owner"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.Fields(string(text))[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}}})
	if err == nil {
		t.Error("it ended well")
	}
	if left := searchLeft(t, s); len(left) != 3 {
		t.Fatalf("the kill left %v: the test shows nothing", left)
	}
	server := searching{token: "bbbb"}.at(t, s)
	problems, err := server.Check(t.Context(), "")
	if err != nil || len(problems) != 1 || problems[0].Kind != "info" || problems[0].Subject != "repository muster-aaaa" {
		t.Error(problems, err)
	}
	if _, err := searchBackup(t, server, database.BackupConfig{}); err != nil {
		t.Error(err)
	}
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
}

// A stream that is not whole is refused, and the repeat makes it good.
func searchTruncated(t *testing.T, s *opensearch.Server) {
	store := newRepository(t)
	server := searching{}.at(t, s)
	backup, err := searchBackup(t, server, database.BackupConfig{Store: store, Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	whole := restoreOf(store, backup)
	whole.Replace = true
	largest := slices.MaxFunc(backup.Parts, func(a, b database.Stored) int { return cmp.Compare(a.Object.Size, b.Object.Size) }).Path
	const segment = "a bit of a segment"
	for name, cut := range map[string]func([]byte) []byte{
		segment: func(b []byte) []byte {
			const block = 512
			header := bytes.Index(b, []byte("/__")) / block
			b[(header+1)*block+20] ^= 1
			return b
		},
		"end":        func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("muster.whole"))] },
		"last file":  func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("./muster.whole"))] },
		"first half": func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("./muster.whole"))/2] },
		"nothing":    func([]byte) []byte { return nil },
	} {
		config := whole
		config.Open = func(ctx context.Context, p database.Part) (io.ReadCloser, error) {
			from, err := whole.Open(ctx, p)
			if err != nil || p.Path != largest {
				return from, err
			}
			defer from.Close()
			content, err := io.ReadAll(from)
			return io.NopCloser(bytes.NewReader(cut(content))), err
		}
		err := server.Restore(t.Context(), config)
		if fault.KindOf(err) != fault.Corrupt || strings.Contains(err.Error(), "shards could not be restored") != (name == segment) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	whole.Replace = false // what is there is an earlier try's
	comesBack(t, server, whole, backup)
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
}

func searchVersions(t *testing.T, s *opensearch.Server) {
	store := newRepository(t)
	server := searching{}.at(t, s)
	backup, err := searchBackup(t, server, database.BackupConfig{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]bool{
		"opensearch 2.19.0": true, "opensearch 1.3.0": true, "opensearch 2.20.0": false, "opensearch 3.0.0": false,
		"elasticsearch 7.10.2": true, "elasticsearch 7.17.0": false, "elasticsearch 6.8.0": false, "elasticsearch 8.1.0": false,
	} {
		config := restoreOf(store, backup)
		config.Facts["server"] = version
		problems, err := server.CheckTarget(t.Context(), config)
		if refused := strings.Contains(fmt.Sprint(problems), "{unsupported server"); err != nil || refused == want {
			t.Errorf("%s: %v, %v", version, problems, err)
		}
	}
}

// A red index is found, and makes no backup; a snapshot that is partial is none.
func searchRed(t *testing.T, s *opensearch.Server) {
	s.Must(t, "PUT", "/shop-lost?wait_for_active_shards=0", `{"settings":{"index.routing.allocation.require._name":"nobody"}}`)
	server := searching{}.at(t, s)
	problems, err := server.Check(t.Context(), "")
	if err != nil || len(problems) != 1 || problems[0].Kind != "corrupt" || problems[0].Subject != "index shop-lost" {
		t.Error(problems, err)
	}
	_, err = searchBackup(t, server, database.BackupConfig{})
	if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "shop-lost") {
		t.Error(err)
	}
	partial := func(e *plans.EngineSpec) {
		e.Prelude = strings.Replace(e.Prelude, `\"partial\":false`, `\"partial\":true`, 1)
	}
	_, err = searchBackup(t, searching{change: partial}.at(t, s), database.BackupConfig{})
	if err == nil || !strings.Contains(err.Error(), "the snapshot is PARTIAL") {
		t.Error(err)
	}
	if left := searchLeft(t, s); len(left) > 0 {
		t.Error(left)
	}
	if _, err := searchBackup(t, searching{settings: map[string]string{"exclude": "shop-lost"}}.at(t, s), database.BackupConfig{}); err != nil {
		t.Error(err)
	}
}

func searchEmpty(t *testing.T, s *opensearch.Server) {
	s.Wipe(t)
	s.Must(t, "PUT", "/_template/old", `{"index_patterns":["old-*"]}`)
	store := newRepository(t)
	server := searching{}.at(t, s)
	backup, err := searchBackup(t, server, database.BackupConfig{Store: store, Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Wipe(t)
	if found := comesBack(t, server, restoreOf(store, backup), backup); len(found) > 0 {
		t.Error(found)
	}
	s.Must(t, "GET", "/_template/old", "")
}
