package main

import (
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/musterdr/muster/orchestrator/etcd/etcdtest"
)

// etcdSnapshot takes a snapshot of a real etcd after changes, which are lines of a key and its value, or of the key
// of a deletion: etcd-snapshot FILE CHANGES
func etcdSnapshot(t *testing.T) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 2 {
			ts.Fatalf("usage: etcd-snapshot FILE CHANGES")
		}
		client := etcdtest.New(t, 1).Start(t).Client(t)
		for line := range strings.Lines(ts.ReadFile(args[1])) {
			key, value, stored := strings.Cut(strings.TrimSpace(line), " ")
			var err error
			if stored {
				_, err = client.Put(t.Context(), key, value)
			} else {
				_, err = client.Delete(t.Context(), key)
			}
			ts.Check(err)
		}
		from, err := client.Snapshot(t.Context())
		ts.Check(err)
		defer from.Close()
		raw, err := io.ReadAll(from)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), raw, 0o600))
	}
}

// flip flips the lowest bit of a byte, which is counted from the end when it is negative: flip FILE TO OFFSET
func flip(ts *testscript.TestScript, _ bool, args []string) {
	damage(ts, args, func(raw []byte, at int) []byte {
		raw[at] ^= 1
		return raw
	})
}

// cut keeps the first bytes alone: cut FILE TO BYTES
func cut(ts *testscript.TestScript, _ bool, args []string) {
	damage(ts, args, func(raw []byte, at int) []byte { return raw[:at] })
}

func damage(ts *testscript.TestScript, args []string, change func(raw []byte, at int) []byte) {
	if len(args) != 3 {
		ts.Fatalf("usage: flip|cut FILE TO OFFSET")
	}
	at, err := strconv.Atoi(args[2])
	ts.Check(err)
	raw := []byte(ts.ReadFile(args[0]))
	if at < 0 {
		at += len(raw)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), change(raw, at), 0o600))
}
