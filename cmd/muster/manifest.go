package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
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
		fmt.Fprintf(out, "  volume %s: %s at %s, %s, %s, in the %s%s\n", name, volume.Provider, volume.Storage, bytesText(volume.Size), volume.Consistency, placeText(volume.Mode), heldText(volume))
	}
	for _, left := range m.VolumesLeft {
		fmt.Fprintf(out, "  volume %s: not captured: %s\n", left.Subject, left.Reason)
	}
	printDatabases(out, m)
	return nil
}

func printDatabases(out io.Writer, m repository.Manifest) {
	for _, d := range m.Databases {
		var bytes int64
		for _, part := range d.Parts {
			bytes += part.Size
		}
		instant := "one instant"
		if !d.PointInTime {
			instant = "no single instant"
		}
		tables := "without digests"
		if d.Digests != nil {
			tables = fmt.Sprintf("digests of %d tables", d.Tables)
		}
		fmt.Fprintf(out, "  database %s: %s %s, %s at %s (%s), %d parts, %s, %s\n", d.Name, d.Engine, printable(d.Server), d.Mode, d.Taken.Format(time.RFC3339), instant, len(d.Parts), bytesText(bytes), tables)
	}
	for _, logs := range m.DatabaseLogs {
		var bytes int64
		from, to := "", ""
		for _, log := range logs.Logs {
			bytes += log.Size
			if log.From != "" && (from == "" || log.From < from) {
				from = log.From
			}
			to = max(to, log.To)
		}
		reach := "no stretch of the log"
		if from != "" {
			reach = fmt.Sprintf("from %s to %s", printable(from), printable(to))
		}
		fmt.Fprintf(out, "  logs of database %s: %d files, %s, %s, complete at %s\n", logs.Name, len(logs.Logs), bytesText(bytes), reach, logs.Taken.Format(time.RFC3339))
	}
}

// heldText names what was held still meanwhile.
func heldText(v repository.VolumeLayer) string {
	held := slices.Clone(v.Quiesced)
	for _, d := range v.QuiescedDatabases {
		held = append(held, "database "+d.Name)
	}
	if len(held) == 0 {
		return ""
	}
	return ", held still: " + strings.Join(held, ", ")
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
