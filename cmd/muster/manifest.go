package main

import (
	"fmt"
	"io"
	"time"

	"github.com/musterdr/muster/state/repository"
)

// printManifest tells what a recovery point holds.
func printManifest(out io.Writer, m repository.Manifest) error {
	fmt.Fprintf(out, "Recovery point %s of cluster %s\n  instant %s, skew %.1f s\n", m.ID, m.Cluster, m.Instant.Format(time.RFC3339), m.SkewSeconds)
	if m.Etcd != nil {
		fmt.Fprintf(out, "  etcd %s: revision %d, %d members, %s, Kubernetes %s\n", m.Etcd.Version, m.Etcd.Revision, len(m.Etcd.Members), bytesText(m.Etcd.Snapshot.Size), m.Etcd.Kubernetes)
	}
	if m.Namespaces != nil {
		fmt.Fprintf(out, "  namespaces: %d objects of %d kinds at revision %d, digest %.12s\n", m.Namespaces.Objects, len(m.Namespaces.Kinds), m.Namespaces.Revision, m.Namespaces.Digest)
	}
	for _, machine := range m.Machines {
		fmt.Fprintf(out, "  machine %s: %s, %s, %s, %d devices\n", machine.Name, machine.Role, machine.OS, bytesText(machine.Rootfs.Size), len(machine.Devices))
	}
	for _, volume := range m.Volumes {
		name := volume.ID
		if volume.PVC != "" {
			name = volume.PVC + " (" + volume.ID + ")"
		}
		fmt.Fprintf(out, "  volume %s: %s at %s, %s, %s, in the %s\n", name, volume.Provider, volume.Storage, bytesText(volume.Size), volume.Consistency, placeText(volume.Mode))
	}
	for _, left := range m.VolumesLeft {
		fmt.Fprintf(out, "  volume %s: not captured: %s\n", left.Subject, left.Reason)
	}
	return nil
}

func placeText(mode repository.VolumeMode) string {
	switch mode {
	case repository.VolumeSnapshot:
		return "backend's snapshot alone"
	case repository.VolumeBoth:
		return "repository and a snapshot"
	default:
		return "repository"
	}
}
