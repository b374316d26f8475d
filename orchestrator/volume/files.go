package volume

import (
	"context"
	"errors"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// FilesBase is what an incremental capture of files builds on: an earlier archive, and the provider's mark
// of the state that it shows; empty when the provider gave none.
type FilesBase struct {
	Archive repository.Archive
	Mark    string
}

// FileCapture says whose files become an archive.
type FileCapture struct {
	Provider   providers.Provider
	Volume     providers.Handle
	Snapshot   providers.Handle // zero: the volume itself is read while it may change
	Token      string
	Base       *FilesBase // nil: everything is read
	Repository *repository.Repository
	Progress   Progress
}

// CapturedFiles is what a capture of files made, and what it cost.
type CapturedFiles struct {
	Archive     repository.Archive      `json:"archive"`
	Stats       repository.ArchiveStats `json:"stats"`
	Mark        string                  `json:"mark,omitempty"` // for the next capture
	Incremental bool                    `json:"incremental"`
}

// Capture archives the files. A base that the repository has no more is done without.
func (c FileCapture) Capture(ctx context.Context) (_ CapturedFiles, err error) {
	request := providers.AttachRequest{Token: c.Token, Volume: c.Volume, ReadOnly: true}
	if !c.Snapshot.IsZero() {
		request.Volume, request.Snapshot = providers.Handle{}, c.Snapshot
	}
	attached, err := c.Provider.Attach(ctx, request)
	if err != nil {
		return CapturedFiles{}, err
	}
	defer func() { err = errors.Join(err, c.Provider.Detach(context.WithoutCancel(ctx), attached.Handle)) }()
	captured, err := c.archive(ctx, attached, c.Base)
	if c.Base != nil && (fault.Is(err, fault.NotFound) || fault.Is(err, fault.Corrupt)) {
		c.Progress.Status("all files: the base cannot be used")
		captured, err = c.archive(ctx, attached, nil)
	}
	return captured, err
}

func (c FileCapture) archive(ctx context.Context, attached providers.Attachment, base *FilesBase) (CapturedFiles, error) {
	config := repository.ArchiveConfig{Root: attached.Path, OneFileSystem: true}
	if base != nil {
		changed, err := c.changed(ctx, base.Mark, attached.Mark)
		if err != nil {
			return CapturedFiles{}, err
		}
		config.Base, config.Changed = &base.Archive, changed
	}
	stored, stats, err := c.Repository.ArchiveFolder(ctx, config)
	if err != nil {
		return CapturedFiles{}, err
	}
	c.Progress.Add(stats.Bytes-stats.ReusedBytes, stats.Entries)
	return CapturedFiles{Archive: stored, Stats: stats, Mark: attached.Mark, Incremental: base != nil}, nil
}

// changed tells which folders to look at; nil means all, where the provider can't tell.
func (c FileCapture) changed(ctx context.Context, since, until string) (func(string) bool, error) {
	if since == "" || until == "" {
		return nil, nil
	}
	folders := map[string]bool{}
	err := c.Provider.Changes(ctx, providers.ChangesRequest{Volume: c.Volume, Since: since, Until: until}, func(some []string) error {
		for _, folder := range some {
			folders[folder] = true
		}
		return nil
	})
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Unsupported) {
		return nil, nil
	}
	return func(folder string) bool { return folders[folder] }, err
}

// RestoreFiles fills a volume that was made for it with the files of an archive. It can be repeated.
func RestoreFiles(ctx context.Context, from *repository.Repository, archive repository.Archive, provider providers.Provider, volume providers.Handle, token string) (_ repository.RestoreStats, err error) {
	attached, err := provider.Attach(ctx, providers.AttachRequest{Token: token, Volume: volume})
	if err != nil {
		return repository.RestoreStats{}, err
	}
	defer func() { err = errors.Join(err, provider.Detach(context.WithoutCancel(ctx), attached.Handle)) }()
	return from.RestoreArchive(ctx, archive, attached.Path, repository.RestoreOptions{NonEmpty: true})
}

// CompareFiles compares a volume's files with the archive they were made of: fault.Corrupt names the first
// difference.
func CompareFiles(ctx context.Context, from *repository.Repository, archive repository.Archive, provider providers.Provider, volume providers.Handle, token string) (err error) {
	attached, err := provider.Attach(ctx, providers.AttachRequest{Token: token, Volume: volume, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.Detach(context.WithoutCancel(ctx), attached.Handle)) }()
	report, err := from.VerifyArchive(ctx, archive, attached.Path)
	if err == nil && report.DifferenceCount > 0 {
		first := report.Differences[0]
		err = fault.Newf("compare files", fault.Corrupt, first.Subject, "%s; %d differences in all", first.Reason, report.DifferenceCount)
	}
	return err
}
