package guard

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// maxPath is Linux's own limit.
const maxPath = 4096

// Attach implements providers.Files.
func (g *Guard) Attach(ctx context.Context, request providers.AttachRequest) (providers.Attachment, error) {
	const op = "attach volume"
	capability := providers.CapFiles
	if !request.Snapshot.IsZero() {
		capability = providers.CapSnapFile
	}
	if err := g.needs(op, capability); err != nil {
		return providers.Attachment{}, err
	}
	a, err := one(ctx, g, op, func(ctx context.Context) (providers.Attachment, error) { return g.inner.Attach(ctx, request) })
	if err == nil {
		err = g.checkAttachment(op, a)
	}
	if err != nil {
		return providers.Attachment{}, err
	}
	return a, nil
}

func (g *Guard) checkAttachment(op string, a providers.Attachment) error {
	if err := g.checkHandle(op, a.Handle); err != nil {
		return err
	}
	if len(a.Mark) > maxName {
		return g.lie(op, "a mark of %d bytes; %d are allowed", len(a.Mark), maxName)
	}
	if !filepath.IsAbs(a.Path) || filepath.Clean(a.Path) != a.Path || a.Path == "/" || len(a.Path) > maxPath {
		return g.lie(op, "%.200q is not the absolute path of a mount", a.Path)
	}
	info, err := os.Lstat(a.Path)
	if err != nil || !info.IsDir() {
		return g.lie(op, "%q is not a folder on this host", a.Path)
	}
	return nil
}

// Detach implements providers.Files.
func (g *Guard) Detach(ctx context.Context, attachment providers.Handle) error {
	const op = "detach volume"
	if !g.info.Can(providers.CapSnapFile) {
		if err := g.needs(op, providers.CapFiles); err != nil {
			return err
		}
	}
	return g.remove(ctx, op, attachment, g.inner.Detach)
}

// Changes implements providers.Files.
func (g *Guard) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	const op = "list changed files"
	if err := g.needs(op, providers.CapChanges); err != nil {
		return err
	}
	if request.Since == "" || request.Until == "" {
		return fault.Newf(op, fault.Invalid, g.info.Name, "a mark is missing")
	}
	count := 0
	check := func(paths []string) error {
		if len(paths) > providers.MaxExtents {
			return g.lie(op, "%d paths at once; %d are allowed", len(paths), providers.MaxExtents)
		}
		if count += max(len(paths), 1); count > g.config.Paths {
			return g.lie(op, "it lists more than %d", g.config.Paths)
		}
		for _, p := range paths {
			if !filepath.IsLocal(p) || path.Clean(p) != p || len(p) > maxPath || strings.ContainsRune(p, 0) {
				return g.lie(op, "%.200q is not the path of a folder inside the volume", p)
			}
		}
		return nil
	}
	return list(ctx, g, op, func(ctx context.Context, each func([]string) error) error {
		return g.inner.Changes(ctx, request, each)
	}, check, each)
}
