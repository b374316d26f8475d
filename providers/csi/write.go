package csi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const (
	writeUnit = 1 << 20 // blocks are written in whole units, the rest of a unit is zeros
	writeRoom = 8 << 20 // bytes of one dd
)

// writeScript writes frames: "D unit seek count" with the bytes behind it, "Z unit seek count" for zeros, and
// "E" at the end, without which the volume counts as cut off. It answers with the number of frames.
const writeScript = `set -eu
e=/run/muster/$$.err
trap 'rm -f $e' EXIT
n=0
write() { dd of=` + moverDevice + ` bs="$unit" seek="$seek" count="$count" conv=notrunc iflag=fullblock 2>$e || { cat $e >&2; exit 3; }; }
while read -r kind unit seek count; do
	: >/run/muster/alive
	case $kind in
	D) write ;;
	Z) write </dev/zero ;;
	E)
		dd if=/dev/null of=` + moverDevice + ` conv=notrunc,fsync 2>$e || { cat $e >&2; exit 3; }
		echo "$n"
		exit 0 ;;
	esac
	n=$((n+1))
done
exit 4`

// Write implements providers.Blocks.
func (p *Provider) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	const op = "write blocks"
	if err := p.ready(op); err != nil {
		return providers.Volume{}, err
	}
	if request.Content != providers.ContentBlocks || !request.Snapshot.IsZero() {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, request.Name, "only a volume of blocks can be written, and not a clone")
	}
	if !request.Into.IsZero() {
		return p.overwrite(ctx, op, request, source)
	}
	v, err := p.planVolume(ctx, op, request.CreateRequest)
	if err != nil {
		return providers.Volume{}, err
	}
	v.mode = corev1.PersistentVolumeBlock // a filesystem's image is written to the device; Bind keeps the mode
	defer p.movers.lock("volume " + request.Token)()
	done, err := p.made(ctx, op, v)
	if err != nil || done != nil {
		return p.madeVolume(ctx, op, done, err)
	}
	if err := p.removeHalf(ctx, op, v); err != nil {
		return providers.Volume{}, err
	}
	volume, err := p.provision(ctx, op, v, func(ctx context.Context, mover string) error {
		return p.fill(ctx, op, mover, v.size, false, source)
	})
	if err != nil {
		err = errors.Join(err, p.abandon(ctx, op, v, err))
	}
	return volume, err
}

// removeHalf removes a volume that an earlier call began to write: what it wrote must not shine through.
func (p *Provider) removeHalf(ctx context.Context, op string, v plan) error {
	list, err := p.kube.CoreV1().PersistentVolumes().List(ctx, selectorOf(kindVolume, v.token))
	if err != nil {
		return wrap(op, "PersistentVolumes", err)
	}
	for i := range list.Items {
		if r, ok := recordOf(&list.Items[i]); ok && !r.Incomplete {
			continue
		}
		if err := p.deleteRecord(ctx, op, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// overwrite writes into a volume that nothing uses, through an alias.
func (p *Provider) overwrite(ctx context.Context, op string, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	if request.Token == "" {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, request.Name, "the request has no token")
	}
	state, err := decodeVolume(op, request.Into)
	if err != nil {
		return providers.Volume{}, err
	}
	all, err := p.look(ctx, op, true)
	if err != nil {
		return providers.Volume{}, err
	}
	volume, err := p.describe(op, all, state.id())
	if err != nil {
		return providers.Volume{}, err
	}
	if volume.Content != providers.ContentBlocks {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, state.id(), "the volume keeps files")
	}
	if request.Size > volume.Size {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, state.id(), "%d bytes do not fit into its %d", request.Size, volume.Size)
	}
	for _, pv := range all.views[state.id()] {
		if ref := pv.Spec.ClaimRef; pv.Status.Phase == corev1.VolumeBound && ref.Namespace != p.settings.Namespace {
			return providers.Volume{}, fault.Newf(op, fault.Busy, state.id(), "claim %s/%s uses it: only a volume without a claim can be overwritten", ref.Namespace, ref.Name)
		}
	}
	if state, err = decodeVolume(op, volume.Handle); err != nil {
		return providers.Volume{}, err
	}
	state.Mode = corev1.PersistentVolumeBlock
	name := nameOf(kindAlias, request.Token, state.id())
	defer p.movers.lock(name)()
	if err := p.createAlias(ctx, op, name, state); err != nil {
		return providers.Volume{}, err
	}
	err = p.startMover(ctx, op, moverPod{name: name, claim: name, mode: corev1.PersistentVolumeBlock})
	if err == nil {
		err = p.fill(ctx, op, name, volume.Size, true, source)
	}
	cleaning, cancel := p.detached(ctx)
	defer cancel()
	if problem := p.removeAlias(cleaning, op, name); err == nil {
		err = problem
	}
	return volume, err
}

// fill sends what source gives to a mover. What source leaves out is zeros: already, or written so.
func (p *Provider) fill(ctx context.Context, op, mover string, size int64, zeros bool, source providers.Source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, in := io.Pipe()
	ended := make(chan error, 1)
	var answer bytes.Buffer
	go func() {
		err := p.exec(ctx, op, mover, writeScript, out, &answer)
		out.CloseWithError(errors.Join(errMoverEnded, err))
		ended <- err
	}()
	pk := &packer{op: op, subject: mover, size: size, zeros: zeros, out: in, report: func(done int64) {
		providers.Report(ctx, providers.Progress{Done: done, Total: size, Text: op})
	}}
	err := pk.run(source)
	if err != nil && !errors.Is(err, errMoverEnded) {
		cancel()
		in.CloseWithError(err)
		<-ended
		return err
	}
	in.Close()
	if problem := <-ended; problem != nil {
		return problem
	}
	if told := strings.TrimSpace(answer.String()); told != fmt.Sprint(pk.frames) {
		return fault.Newf(op, fault.Transient, "mover "+mover, "it wrote %q of %d frames", told, pk.frames)
	}
	return nil
}

var errMoverEnded = errors.New("the mover has ended")
