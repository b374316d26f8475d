package gluster

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/musterdr/muster/providers/fault"
)

// pool reaches the peers.
type pool struct {
	settings Settings
	shells   []*shell // in the order of settings.Peers
}

func newPool(settings Settings) *pool {
	p := &pool{settings: settings}
	for _, peer := range settings.Peers {
		p.shells = append(p.shells, newShell(peer))
	}
	return p
}

func (p *pool) close() {
	for _, s := range p.shells {
		s.close()
	}
}

// shell is that of the peer which Gluster or the settings call so.
func (p *pool) shell(op, host string) (*shell, error) {
	for _, s := range p.shells {
		if host == s.peer.Name || host == s.peer.Address {
			return s, nil
		}
	}
	return nil, fault.Newf(op, fault.Invalid, host, "the settings name no such peer: add it to peers, with its name as gluster pool list shows it")
}

// timeoutStatus is the status of timeout(1) when it ended the command.
const timeoutStatus = 124

// on runs a script on one peer, for at most the time that settings give to a command.
func (p *pool) on(ctx context.Context, s *shell, script string, args ...string) (outcome, error) {
	limited, cancel := context.WithTimeout(ctx, p.settings.commandTime())
	defer cancel()
	out, err := s.run(limited, script, args...)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return out, unreachable{fault.Newf("run on peer", fault.Transient, s.subject(), "no answer for %v", p.settings.commandTime())}
	}
	return out, err
}

// anywhere runs a script on the first peer that can be reached.
func (p *pool) anywhere(ctx context.Context, script string, args ...string) (outcome, error) {
	var lost []error
	for _, s := range p.shells {
		out, err := p.on(ctx, s, script, args...)
		var gone unreachable
		if err == nil && !bytes.Contains(out.stdout, []byte("Connection failed. Please check if gluster daemon is operational")) {
			return out, nil
		}
		if err == nil {
			err = unreachable{fault.Newf("run on peer", fault.Transient, s.subject(), "glusterd does not run there: start it")}
		}
		if !errors.As(err, &gone) || ctx.Err() != nil {
			return out, err
		}
		lost = append(lost, err)
	}
	return outcome{}, fault.Newf("reach the pool", fault.Transient, p.settings.Peers[0].Address, "no peer answers: %w", errors.Join(lost...))
}

// glusterScript is the command with its own bound, a little below that of the connection.
const glusterScript = `limit=$1; shift; LC_ALL=C exec gluster --mode=script --xml --timeout="$limit" "$@"`

// Retries of what another transaction of the pool is in the way of.
const (
	busyFirst = 100 * time.Millisecond
	busyLast  = 2 * time.Second
	busyTries = 10
)

// gluster runs one command of the pool. While another transaction is in progress it is tried again, some
// seconds long.
func (p *pool) gluster(ctx context.Context, op, subject string, args ...string) (reply, error) {
	wait := busyFirst
	for try := 1; ; try++ {
		r, err := p.once(ctx, op, subject, args...)
		if !fault.Is(err, fault.Busy) || try == busyTries {
			return r, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return r, ended(ctx, op, subject)
		}
		wait = min(2*wait, busyLast)
	}
}

func (p *pool) once(ctx context.Context, op, subject string, args ...string) (reply, error) {
	limit := strconv.Itoa(max(p.settings.CommandSeconds-2, 3))
	out, err := p.anywhere(ctx, glusterScript, append([]string{limit}, args...)...)
	if err != nil {
		return reply{}, fault.New(op, fault.KindOf(err), subject, err)
	}
	r, err := parseReply(out.stdout)
	if err != nil {
		return reply{}, unreadable(op, subject, out, err)
	}
	if r.OpRet != 0 {
		return r, refusal(op, subject, r.OpErrno, r.OpErrstr)
	}
	return r, nil
}

// unreadable is the error of a command that did not answer in XML.
func unreadable(op, subject string, out outcome, err error) error {
	said := firstLines(out.stderr, out.stdout)
	switch {
	case out.status == 127:
		return fault.Newf(op, fault.Unsupported, subject, "%s: the peer has no gluster command", said)
	case out.status == timeoutStatus:
		return fault.Newf(op, fault.Transient, subject, "gluster did not answer in time")
	case out.status != 0 && !bytes.HasPrefix(bytes.TrimSpace(out.stdout), []byte("<")):
		return refusal(op, subject, 0, said)
	}
	return fault.Newf(op, fault.Corrupt, subject, "gluster's answer is not the XML that it should be: %w: %s", err, said)
}

func firstLines(texts ...[]byte) string {
	for _, text := range texts {
		if said := strings.TrimSpace(string(text)); said != "" {
			return printable(said[:min(len(said), 400)])
		}
	}
	return "it said nothing"
}

// printable keeps what a peer said to one line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// refusals are what glusterd says, and what that is. The first that matches counts: glusterd's numbers
// alone say little (30800 is any error).
var refusals = [...]struct {
	text string
	kind fault.Kind
	then string
}{
	{"another transaction is in progress", fault.Busy, "it can be tried again"},
	{"locking failed", fault.Busy, "it can be tried again"},
	{"operation now in progress", fault.Busy, "it can be tried again"},
	{"a cluster wide lock", fault.Busy, "it can be tried again"},
	{"thinly provisioned", fault.Unsupported, thinReason},
	{"snapshot functionality is disabled", fault.Unsupported, thinReason},
	{"first delete all", fault.Busy, ""},
	{"option :", fault.Invalid, ""},
	{"invalid", fault.Invalid, ""},
	{"usage:", fault.Invalid, ""},
	{"no space left on device", fault.NoSpace, "free space on the bricks' filesystems"},
	{"disk quota exceeded", fault.NoSpace, "raise the quota"},
	{"not enough free", fault.NoSpace, "free space on the bricks' filesystems"},
	{"does not exist", fault.NotFound, ""},
	{"not found", fault.NotFound, ""},
	{"no such volume", fault.NotFound, ""},
	{"already exists", fault.Exists, ""},
	{"already part of a volume", fault.Exists, ""},
	{"permission denied", fault.Denied, "the user must be root, or use sudo"},
	{"operation not permitted", fault.Denied, "the user must be root, or use sudo"},
	{"glusterd is not running", fault.Transient, "start it"},
	{"quorum", fault.Transient, "too few peers are connected: gluster peer status"},
	{"transport endpoint is not connected", fault.Transient, "gluster peer status"},
	{"not in 'peer in cluster' state", fault.Transient, "gluster peer status"},
	{"is not connected", fault.Transient, "gluster peer status"},
	{"some of the peers are down", fault.Transient, "gluster peer status"},
	{"one or more nodes do not support", fault.Unsupported, "all peers need one version: gluster volume get all cluster.op-version"},
	{"commit failed on", fault.Transient, "gluster peer status"},
	{"staging failed on", fault.Transient, "gluster peer status"},
	{"request timed out", fault.Transient, ""},
	{"error : request timed out", fault.Transient, ""},
	{"being used", fault.Busy, ""},
	{"wrong brick", fault.Invalid, ""},
	{"incorrect brick", fault.Invalid, ""},
	{"multiple bricks of a replicate", fault.Invalid, "spread bricks over peers, or set force"},
	{"multiple bricks of a disperse", fault.Invalid, "spread bricks over peers, or set force"},
	{"root partition", fault.Invalid, "put bricks on a filesystem of their own, or set force"},
	{"mount point", fault.Invalid, "use a folder below the mount point, or set force"},
}

// thinReason is why a volume has no snapshots.
const thinReason = "bricks are not on thin-provisioned LVM: capture its files live instead"

func refusal(op, subject string, number int, text string) error {
	text = printable(strings.TrimSpace(text))
	small := strings.ToLower(text)
	for _, known := range refusals {
		if !strings.Contains(small, known.text) {
			continue
		}
		if known.then == "" {
			return fault.Newf(op, known.kind, subject, "gluster: %s", text)
		}
		return fault.Newf(op, known.kind, subject, "gluster: %s: %s", text, known.then)
	}
	return fault.Newf(op, fault.Internal, subject, "gluster: %s (%d)", text, number)
}

// parseReply reads one answer strictly: well-formed, whole, no other document behind it.
func parseReply(text []byte) (reply, error) {
	var r reply
	decoder := xml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&r); err != nil {
		return r, err
	}
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r, err
		}
		if blank, ok := token.(xml.CharData); !ok || len(bytes.TrimSpace(blank)) > 0 {
			return r, errors.New("something follows the document")
		}
	}
	if r.Result == nil {
		return r, errors.New("it has no opRet")
	}
	r.OpRet = *r.Result
	return r, r.check()
}
