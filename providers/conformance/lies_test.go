package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/providers/mem"
)

// A lie changes one thing of an honest provider.
type lie struct {
	name   string
	change func(l *liar)
	fails  string
	reason string
}

// TestLiesAreCaught holds that a provider with one defect fails the case that is about it: a suite that
// cannot fail proves nothing.
func TestLiesAreCaught(t *testing.T) {
	t.Parallel()
	for _, try := range slices.Concat(infoLies(), volumeLies(), snapshotLies(), blockLies(), otherLies()) {
		t.Run(try.name, func(t *testing.T) {
			t.Parallel()
			config := bench(t, mem.Settings{}, func(p providers.Provider, b *mem.Backend) providers.Provider {
				l := &liar{Provider: p, backend: b}
				try.change(l)
				return l
			})
			caught(t, config, try.fails, try.reason)
		})
	}
}

func infoLies() []lie {
	info := func(change func(*providers.Info)) func(*liar) {
		return func(l *liar) {
			l.info = func(i providers.Info) providers.Info {
				change(&i)
				return i
			}
		}
	}
	health := func(change func(*providers.Health)) func(*liar) {
		return func(l *liar) { l.health = change }
	}
	var count atomic.Int64
	return []lie{
		{"a name with spaces", info(func(i *providers.Info) { i.Name = "My Store" }), "info", "lower-case"},
		{"no version", info(func(i *providers.Info) { i.Version = "" }), "info", "no version"},
		{"another protocol", info(func(i *providers.Info) { i.Protocols = []int{99} }), "info", "protocols"},
		{"a schema that is none", info(func(i *providers.Info) { i.Schema = json.RawMessage(`{"type":"cloud"}`) }), "info", "JSON Schema"},
		{"no schema", info(func(i *providers.Info) { i.Schema = nil }), "info", "JSON Schema"},
		{"a capability twice", info(func(i *providers.Info) { i.Capabilities = append(i.Capabilities, i.Capabilities[0]) }), "info", "twice"},
		{"can more than it claims", info(func(i *providers.Info) { i.Capabilities = []providers.Capability{providers.CapCreate} }), "unclaimed", "does not claim"},
		{"takes any settings", func(l *liar) { l.configure = func(json.RawMessage) json.RawMessage { return json.RawMessage(`{}`) } }, "configure", "went through"},
		{"no fingerprint", health(func(h *providers.Health) { h.Fingerprint = "" }), "health", "fingerprint"},
		{"a fingerprint that changes", health(func(h *providers.Health) { h.Fingerprint += strconv.FormatInt(count.Add(1), 10) }), "health", "fingerprints"},
		{"more free than there is", health(func(h *providers.Health) { h.Free, h.Total = 2, 1 }), "health", "bytes free"},
		{"unusable", health(func(h *providers.Health) { h.Usable = false }), "health", "not usable"},
	}
}

func volumeLies() []lie {
	return []lie{
		{"a token is nothing to create", func(l *liar) {
			l.create = func(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
				r.Token += strconv.FormatInt(time.Now().UnixNano(), 36)
				return l.Provider.Create(ctx, r)
			}
		}, "create-volume-again/blocks", "same token"},
		{"tags are lost", func(l *liar) {
			l.create = func(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
				r.Tags = without(r.Tags, providers.TagStep)
				return l.Provider.Create(ctx, r)
			}
		}, "create-volume/files", "tag muster.dev/step"},
		{"a token for another request gives the first", func(l *liar) {
			l.create = func(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
				r.Size = 2 << 20
				return l.Provider.Create(ctx, r)
			}
		}, "create-volume-again/blocks", "different size"},
		{"unknown parameters pass", func(l *liar) {
			l.create = func(ctx context.Context, r providers.CreateRequest) (providers.Volume, error) {
				r.Parameters = nil
				return l.Provider.Create(ctx, r)
			}
		}, "create-volume-refuses/blocks", "unknown parameter"},
		{"deletes nothing", func(l *liar) {
			l.deleteV = func(context.Context, providers.Handle) error { return nil }
		}, "delete-volume/blocks", "went through"},
		{"deleting twice is an error", func(l *liar) {
			l.deleteV = func(ctx context.Context, h providers.Handle) error {
				if _, err := l.Provider.Volume(ctx, h); err != nil {
					return err
				}
				return l.Provider.DeleteVolume(ctx, h)
			}
		}, "delete-volume/files", "again"},
		{"deletes what is not Muster's", func(l *liar) {
			l.deleteV = func(ctx context.Context, h providers.Handle) error {
				v, err := l.Provider.Volume(ctx, h)
				if err != nil {
					return nil
				}
				return l.backend.RemoveVolume(ctx, v.ID)
			}
		}, "delete-volume-foreign/blocks", "did not make"},
		{"never lets go of anything", func(l *liar) {
			l.deleteV = func(context.Context, providers.Handle) error {
				return fault.Newf("delete", fault.Busy, "volume", "on purpose")
			}
		}, "create-volume/blocks", "clean up"},
		{"what is gone is called transient", func(l *liar) {
			l.describe = func(ctx context.Context, h providers.Handle) (providers.Volume, error) {
				v, err := l.Provider.Volume(ctx, h)
				if err != nil {
					err = fault.Newf("describe", fault.Transient, "", "%v", err)
				}
				return v, err
			}
		}, "delete-volume/blocks", "transient"},
		{"discover knows no tags", func(l *liar) {
			l.discover = func(ctx context.Context, q providers.Query, each func(providers.Volume) error) error {
				q.Tags = without(q.Tags, providers.TagStep)
				return l.Provider.Discover(ctx, q, each)
			}
		}, "discover/blocks", "none has"},
		{"discover knows no IDs", func(l *liar) {
			l.discover = func(ctx context.Context, q providers.Query, each func(providers.Volume) error) error {
				q.IDs = nil
				return l.Provider.Discover(ctx, q, each)
			}
		}, "discover/files", "by ID"},
		{"discover swallows errors", func(l *liar) {
			l.discover = func(ctx context.Context, q providers.Query, each func(providers.Volume) error) error {
				_ = l.Provider.Discover(ctx, q, each)
				return nil
			}
		}, "discover/blocks", "callback"},
		{"panics", func(l *liar) {
			l.match = func(context.Context, *corev1.PersistentVolume) (providers.Volume, error) { panic("on purpose") }
		}, "match-refuses", "panic: on purpose"},
		{"matches foreign volumes", func(l *liar) {
			l.match = func(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
				v, err := l.Provider.Match(ctx, pv)
				if fault.Is(err, fault.Unsupported) {
					err = fault.New("match", fault.NotFound, "", nil)
				}
				return v, err
			}
		}, "match-refuses", "expected [unsupported]"},
		{"matches another volume", func(l *liar) {
			l.match = func(ctx context.Context, pv *corev1.PersistentVolume) (providers.Volume, error) {
				v, err := l.Provider.Match(ctx, pv)
				v.ID += "x"
				return v, err
			}
		}, "match-and-bind/blocks", "it is volume"},
		{"binding forgets the claim", func(l *liar) {
			l.bind = func(ctx context.Context, h providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
				bound, err := l.Provider.Bind(ctx, h, pv)
				if err == nil {
					bound.Spec.ClaimRef = nil
				}
				return bound, err
			}
		}, "match-and-bind/files", "did not stay"},
		{"binding changes what it was given", func(l *liar) {
			l.bind = func(ctx context.Context, h providers.Handle, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
				bound, err := l.Provider.Bind(ctx, h, pv)
				pv.Name = "mine"
				return bound, err
			}
		}, "match-and-bind/blocks", "returns a copy"},
	}
}

func blockLies() []lie {
	write := func(change func(ctx context.Context, l *liar, r providers.WriteRequest, source providers.Source) (providers.Volume, error)) func(*liar) {
		return func(l *liar) {
			l.write = func(ctx context.Context, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
				return change(ctx, l, r, source)
			}
		}
	}
	return []lie{
		{"a base that is gone gives all", func(l *liar) {
			l.extents = func(ctx context.Context, r providers.ExtentsRequest, each func([]providers.Extent) error) error {
				err := l.Provider.Extents(ctx, r, each)
				if fault.Is(err, fault.NotFound) {
					r.Base = providers.Handle{}
					return l.Provider.Extents(ctx, r, each)
				}
				return err
			}
		}, "extents-gone/blocks", "deleted base"},
		{"data is called zeros", func(l *liar) {
			l.extents = func(ctx context.Context, r providers.ExtentsRequest, each func([]providers.Extent) error) error {
				return l.Provider.Extents(ctx, r, func(all []providers.Extent) error {
					all[0].Zero = true
					return each(all)
				})
			}
		}, "extents/blocks", "said to be zeros"},
		{"what became zeros has not changed", func(l *liar) {
			l.extents = func(ctx context.Context, r providers.ExtentsRequest, each func([]providers.Extent) error) error {
				return l.Provider.Extents(ctx, r, func(all []providers.Extent) error {
					all = slices.DeleteFunc(all, func(e providers.Extent) bool { return e.Zero })
					return each(all)
				})
			}
		}, "extents-changed/blocks", "is in none"},
		{"reads without end", func(l *liar) {
			l.read = func(ctx context.Context, r providers.ReadRequest, each func(providers.Block) error) error {
				_ = l.Provider.Read(ctx, r, each)
				return nil
			}
		}, "read-parts/blocks", "callback"},
		{"reads what overlaps", func(l *liar) {
			l.read = func(ctx context.Context, r providers.ReadRequest, each func(providers.Block) error) error {
				if err := l.Provider.Read(ctx, r, each); !fault.Is(err, fault.Invalid) {
					return err
				}
				return nil
			}
		}, "read-refuses/blocks", "overlapping"},
		{"an overwritten volume keeps old data in holes", func(l *liar) {
			l.write = func(ctx context.Context, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
				if r.Into.IsZero() {
					return l.Provider.Write(ctx, r, source)
				}
				v, err := l.Provider.Volume(ctx, r.Into)
				if err != nil {
					return v, err
				}
				for {
					b, err := source()
					if errors.Is(err, io.EOF) {
						return v, nil
					}
					if err != nil {
						return v, err
					}
					if b.Zero {
						continue
					}
					if err := l.backend.WriteAt(ctx, v.ID, b.Offset, b.Data); err != nil {
						return v, err
					}
				}
			}
		}, "overwrite/blocks", "differs"},
		{"a token is nothing to writes", write(func(ctx context.Context, l *liar, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
			r.Token += strconv.FormatInt(time.Now().UnixNano(), 36)
			return l.Provider.Write(ctx, r, source)
		}), "write-again/blocks", "same token"},
		{"a write that breaks off leaves a volume", write(func(ctx context.Context, l *liar, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
			var broken error
			v, err := l.Provider.Write(ctx, r, func() (providers.Block, error) {
				b, err := source()
				if err != nil && !errors.Is(err, io.EOF) {
					broken, err = err, io.EOF
				}
				return b, err
			})
			return v, errors.Join(err, broken)
		}), "write-aborted/blocks", "expected 0"},
		{"a cancelled write goes through", write(func(ctx context.Context, l *liar, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
			return l.Provider.Write(context.WithoutCancel(ctx), r, source)
		}), "write-cancelled/blocks", "went through"},
		{"damaged blocks are written", write(func(ctx context.Context, l *liar, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
			return l.Provider.Write(ctx, r, func() (providers.Block, error) {
				b, err := source()
				b.CRC = providers.Sum(b.Data)
				return b, err
			})
		}), "write-refuses/blocks", "a damaged block"},
		{"blocks in any order are written", write(func(ctx context.Context, l *liar, r providers.WriteRequest, source providers.Source) (providers.Volume, error) {
			var end int64
			return l.Provider.Write(ctx, r, func() (providers.Block, error) {
				for {
					b, err := source()
					if err != nil || b.Offset >= end {
						end = b.End()
						return b, err
					}
				}
			})
		}), "write-refuses/blocks", "descend"},
	}
}

func otherLies() []lie {
	var attached atomic.Int64
	return []lie{
		{"another folder each time", func(l *liar) {
			l.attach = func(ctx context.Context, r providers.AttachRequest) (providers.Attachment, error) {
				a, err := l.Provider.Attach(ctx, r)
				if attached.Add(1)%2 == 0 {
					a.Path = filepath.Join(a.Path, "a")
				}
				return a, err
			}
		}, "attach/files", "gave the folders"},
		{"an attached snapshot is live", func(l *liar) {
			l.attach = func(ctx context.Context, r providers.AttachRequest) (providers.Attachment, error) {
				a, err := l.Provider.Attach(ctx, r)
				if err != nil || r.Snapshot.IsZero() {
					return a, err
				}
				n, err := l.SnapshotOf(ctx, r.Snapshot)
				if err == nil {
					a.Path, err = l.backend.Tree(ctx, n.VolumeID)
				}
				return a, err
			}
		}, "attach-snapshot/files", "top.txt"},
		{"no folder has changed", func(l *liar) {
			l.changes = func(context.Context, providers.ChangesRequest, func([]string) error) error { return nil }
		}, "changes/files", "has changed"},
		{"a token is nothing to machines", func(l *liar) {
			l.machine = func(ctx context.Context, r providers.MachineRequest) (providers.Machine, error) {
				r.Token += strconv.FormatInt(time.Now().UnixNano(), 36)
				return l.Provider.CreateMachine(ctx, r)
			}
		}, "machine", "same token"},
		{"deletes no machine", func(l *liar) {
			l.deleteM = func(context.Context, providers.Handle) error { return nil }
		}, "machine", "after it was deleted"},
		{"a machine without its root", func(l *liar) {
			l.machine = func(ctx context.Context, r providers.MachineRequest) (providers.Machine, error) {
				r.Root, r.Parameters = providers.Handle{}, map[string]string{"image": "debian"}
				return l.Provider.CreateMachine(ctx, r)
			}
		}, "machine-from-root/blocks", "no volume"},
	}
}
