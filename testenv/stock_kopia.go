package testenv

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// NeedKopia is the path of the stock kopia command. It needs no root; MUSTER_LAB=off skips the test
// where CI is not set.
func NeedKopia(t testing.TB) string {
	t.Helper()
	if os.Getenv("MUSTER_LAB") == "off" && os.Getenv("CI") != "true" {
		t.Skip("left out: MUSTER_LAB is off")
	}
	program, err := StockKopia(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// StockKopia is the path of the stock kopia command, which is built when it is not there.
func StockKopia(ctx context.Context) (string, error) {
	b, unlock, err := newBuilder(func(string, ...any) {})
	if err != nil {
		return "", err
	}
	defer unlock()
	dir, err := b.goTool(ctx, "kopia", "github.com/kopia/kopia", "the stock kopia command")
	return filepath.Join(dir, "kopia"), err
}
