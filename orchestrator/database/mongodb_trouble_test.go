package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/mongodb"
	"github.com/musterdr/muster/testenv/pki"
)

const mongodbLines = `
const text = 'line '.repeat(400);
server.getDB('shop').line.insertMany([...Array(1500).keys()].map(i => ({_id: 'l' + i, text: text})));
server.getDB('shop').account.insertMany([...Array(1000).keys()].map(i => ({_id: i, balance: Int32(100)})));
`

func TestMongoDBDenied(t *testing.T) {
	source, other := mongodb.Need(t, mongodb.Config{Auth: true, TLS: true}), mongodb.Need(t, mongodb.Config{})
	mongodbJS(t, source, "server.getDB('shop').account.insertMany([{_id: 1, balance: 100}]); server.getDB('shop').runCommand({createUser: 'teller', pwd: 'x', roles: []})")
	settings := map[string]string{"user": mongodb.User, "caFile": source.CAFile()}
	for _, wrong := range []string{`planted-wrong-"password" \'`, ""} {
		secrets := map[string]string{"password": wrong}
		if wrong == "" {
			secrets = nil
		}
		server := mongodbServer(t, source, settings, secrets)
		if problems, err := server.Check(t.Context(), ""); fault.KindOf(err) != fault.Denied && fault.KindOf(server.Refused("check", problems)) != fault.Denied || strings.Contains(fmt.Sprint(err, problems), "planted") {
			t.Error(problems, err)
		}
	}
	secrets := map[string]string{"password": mongodb.Password}
	stranger, err := pki.New()
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := errors.Join(err, os.WriteFile(file, stranger.PEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := mongodbServer(t, source, map[string]string{"user": mongodb.User, "caFile": file}, secrets).Check(t.Context(), ""); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "caFile") {
		t.Error(err)
	}
	server := mongodbServer(t, source, settings, secrets)
	if problems, err := server.Check(t.Context(), ""); err != nil || server.Refused("check", problems) != nil {
		t.Error(problems, err)
	}
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now, Digests: true})
	if err != nil || len(backup.Digests) != 2 {
		t.Fatal(backup.Digests, err)
	}
	restore := restoreOf(store, backup)
	if err := mongodbServer(t, other, nil, nil).Restore(t.Context(), restore); fault.KindOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "settings.users") {
		t.Errorf("users in a server that takes none: %v", err)
	}
	comesBack(t, mongodbServer(t, other, map[string]string{"users": "leave"}, nil), restore, backup)
	source.Stop()
	if _, err := server.Check(t.Context(), ""); fault.KindOf(err) != fault.Transient {
		t.Error(err)
	}
}

func TestMongoDBTrouble(t *testing.T) {
	source, target := mongodb.Need(t, mongodb.Config{ReplicaSet: true}), mongodb.Need(t, mongodb.Config{ReplicaSet: true})
	mongodbJS(t, source, mongodbLines)
	server := mongodbServer(t, source, nil, nil)
	t.Run("dump is killed", func(t *testing.T) {
		killed := 0
		backup, err := server.Backup(t.Context(), database.BackupConfig{Store: newRepository(t), Now: time.Now, Progress: &onBytes{after: 100_000, call: func() { killed = killMongodump(t, source) }}})
		if err == nil || killed != 1 || len(backup.Facts) > 0 || len(backup.Parts) > 0 {
			t.Error(err, killed, backup.Facts, backup.Parts)
		}
	})
	t.Run("truncated", func(t *testing.T) { mongodbTruncated(t, server, mongodbServer(t, target, nil, nil)) })
}

// killMongodump kills the dumps of a server, and returns how many there were.
func killMongodump(t *testing.T, s *mongodb.Server) int {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, name := range processes {
		text, _ := os.ReadFile(name) // it may have ended
		if !strings.HasPrefix(string(text), "mongodump\x00") || !strings.Contains(string(text), "--port="+s.Port+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// A stream that ends early is never taken for a whole one, wherever it ends, and the repeat makes it good.
func mongodbTruncated(t *testing.T, server, into *database.Server) {
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now, Digests: true})
	if err != nil {
		t.Fatal(err)
	}
	whole := restoreOf(store, backup)
	end := []byte{0xff, 0xff, 0xff, 0xff} // of each block
	for name, cut := range map[string]func([]byte) []byte{
		"any block":      func(b []byte) []byte { return b[:bytes.Index(b, end)+4] }, // mongorestore waits for ever
		"a half":         func(b []byte) []byte { return b[:len(b)/2] },
		"the last block": func(b []byte) []byte { return b[:bytes.LastIndex(b[:len(b)-4], end)+4] },
	} {
		config := whole
		config.Open = func(ctx context.Context, p database.Part) (io.ReadCloser, error) {
			from, err := whole.Open(ctx, p)
			if err != nil {
				return nil, err
			}
			defer from.Close()
			content, err := io.ReadAll(from)
			return io.NopCloser(bytes.NewReader(cut(content))), err
		}
		if err := into.Restore(t.Context(), config); fault.KindOf(err) != fault.Corrupt { // of one token: each is a repeat of the one before
			t.Errorf("without %s: %v", name, err)
		}
	}
	comesBack(t, into, whole, backup)
}
