package repository

import (
	"testing"

	"github.com/kopia/kopia/snapshot"

	"github.com/musterdr/muster/providers/fault"
)

// TestNewerFormats reads what a future kopia and a future muster may write.
func TestNewerFormats(t *testing.T) {
	t.Run("point", func(t *testing.T) {
		f := newFixture(t)
		point := f.seal(t, "prod-1", []byte("content"))
		session, err := f.session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		saved, err := snapshot.LoadSnapshot(t.Context(), session, point.snapshot)
		if err != nil {
			t.Fatal(err)
		}
		saved.Tags[tagFormat], saved.Tags[tagPoint] = formatVersion+"9", "prod-2"
		if _, err := snapshot.SaveSnapshot(t.Context(), session, saved); err != nil {
			t.Fatal(err)
		}
		if err := session.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := reopen(t, f.config).Points(t.Context()); !fault.Is(err, fault.Unsupported) {
			t.Fatal(err)
		}
	})
	t.Run("repository", func(t *testing.T) {
		f := newFixture(t)
		formats := f.repo.FormatManager()
		parameters, err := formats.GetMutableParameters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		blobs, err := formats.BlobCfgBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		parameters.Version = 99
		if err := formats.SetParameters(t.Context(), parameters, blobs, nil); err != nil {
			t.Fatal(err)
		}
		config := f.config
		config.CacheDir = t.TempDir()
		if _, err := Open(t.Context(), config); !fault.Is(err, fault.Unsupported) {
			t.Fatal(err)
		}
	})
}
