//go:build cgo && ceph

package ceph

import (
	"context"

	"github.com/musterdr/muster/providers"
)

type filesystem struct{}

func (*filesystem) close() error                                  { return nil }
func (p *Provider) filesystem(string) (*filesystem, error)        { return nil, nil }
func (p *Provider) discoverFiles(context.Context, providers.Query, func(providers.Volume) error) error { return nil }
func (p *Provider) folderVolume(context.Context, string, place) (providers.Volume, error) { panic(1) }
func (p *Provider) deleteFolder(context.Context, string, place) error { panic(1) }
func (p *Provider) createFolder(context.Context, string, providers.CreateRequest) (providers.Volume, error) { return providers.Volume{}, p.Unsupported.DeleteVolume(nil, providers.Handle{}) }
func (p *Provider) folderSnapshot(context.Context, string, moment) (providers.Snapshot, error) { panic(1) }
func (p *Provider) listFolderSnapshots(context.Context, providers.Query, func(providers.Snapshot) error) error { return nil }
func (p *Provider) deleteFolderSnapshot(context.Context, string, moment) error { panic(1) }
func (p *Provider) takeFolders(context.Context, *taking, []providers.Snapshot) (providers.SnapshotSet, error) { panic(1) }
