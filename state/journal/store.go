package journal

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/musterdr/muster/providers/fault"
)

// Version is the newest format this program writes, and the newest it reads.
//
// Version 2 knows commands, decisions, pauses, skips and undo that can be resumed.
const Version = 2

// Config tells where the journal is.
type Config struct {
	Directory string // of the embedded etcd; used when Endpoints is empty
	Endpoints []string
	CAFile    string
	CertFile  string
	KeyFile   string
	Owner     string // who this process is, for people: host/pid
	Log       *slog.Logger
}

// Store is a connection to the journal of all runs. It is safe for concurrent use.
type Store struct {
	config Config
	client *clientv3.Client
	host   *host // nil with an external etcd
}

// Header says what a run is.
type Header struct {
	Version    int             `json:"version"`
	ID         string          `json:"id"`
	Plan       string          `json:"plan"`
	PlanDigest string          `json:"planDigest"`
	Purpose    string          `json:"purpose"`
	Cluster    string          `json:"cluster,omitempty"`
	Created    time.Time       `json:"created"`
	Frozen     json.RawMessage `json:"-"` // what a resume needs; kept in parts of its own
}

// Event is one thing that happened in a run.
type Event struct {
	Version  int             `json:"v"`
	Sequence int64           `json:"sequence"` // 1, 2, 3, … ; set by Append
	Time     time.Time       `json:"time"`
	Type     string          `json:"type"`
	Step     string          `json:"step,omitempty"`
	Item     string          `json:"item,omitempty"`
	Attempt  int             `json:"attempt,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

const (
	prefix    = "/muster/v1/runs/"
	partBytes = 1 << 20 // etcd refuses requests over 1.5 MiB
	dialLimit = 10 * time.Second
)

func runKey(id, rest string) string { return prefix + id + "/" + rest }

func eventKey(id string, sequence int64) string {
	return runKey(id, fmt.Sprintf("events/%020d", sequence))
}

// Open connects to the journal, hosting it where nobody does yet.
func Open(ctx context.Context, config Config) (*Store, error) {
	s := &Store{config: config}
	endpoints := config.Endpoints
	security, err := config.security()
	if err != nil {
		return nil, err
	}
	if len(endpoints) == 0 {
		if s.host, err = openHost(ctx, config); err != nil {
			return nil, err
		}
		endpoints = []string{s.host.endpoint()}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: security, DialTimeout: dialLimit, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
	})
	if err != nil {
		return nil, errors.Join(fault.New("open journal", fault.Invalid, strings.Join(endpoints, ","), err), s.host.close())
	}
	s.client = client
	if s.host != nil {
		// Requests to a server that gave up would wait for ever.
		context.AfterFunc(s.host.gone, func() { _ = client.Close() }) // the reason is in s.broken
	}
	probe, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	if _, err := client.Get(probe, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly()); err != nil {
		return nil, errors.Join(fault.New("open journal", fault.Transient, s.where(), err), s.Close())
	}
	return s, nil
}

// security is nil for an etcd without TLS, which the embedded one is: only its owner reaches it.
func (c Config) security() (*tls.Config, error) {
	secure := strings.Contains(strings.Join(c.Endpoints, ","), "https://")
	if c.CAFile == "" && c.CertFile == "" && c.KeyFile == "" && !secure {
		return nil, nil
	}
	if len(c.Endpoints) == 0 {
		return nil, fault.Newf("open journal", fault.Invalid, "", "certificate files are for an external etcd: name it with --state-endpoints")
	}
	info := transport.TLSInfo{TrustedCAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile}
	config, err := info.ClientConfig()
	if err != nil {
		return nil, fault.New("open journal", fault.Invalid, strings.Join(c.Endpoints, ","), err)
	}
	return config, nil
}

// Close lets go of the journal; another process that has joined it goes on hosting it.
func (s *Store) Close() error {
	var err error
	if s.client != nil && s.broken() == nil {
		err = s.client.Close()
	}
	return errors.Join(err, s.host.close())
}

func (s *Store) where() string {
	if s.host != nil {
		return s.config.Directory
	}
	return strings.Join(s.config.Endpoints, ",")
}

// Create makes a run: header and frozen content, all or nothing. It returns fault.Exists when there
// is a run of that ID.
func (s *Store) Create(ctx context.Context, header Header) error {
	header.Version = Version
	raw, err := json.Marshal(header)
	if err != nil {
		return fault.New("create run", fault.Internal, header.ID, err)
	}
	// The parts come first and the header last: a run exists when its header does.
	number := 0
	for part := range slices.Chunk([]byte(header.Frozen), partBytes) {
		err := s.patiently(ctx, func(ctx context.Context) error {
			_, err := s.client.Put(ctx, runKey(header.ID, fmt.Sprintf("frozen/%06d", number)), string(part))
			return err
		})
		if err != nil {
			return s.fail("create run", header.ID, err)
		}
		number++
	}
	key := runKey(header.ID, "header")
	exists := false
	err = s.patiently(ctx, func(ctx context.Context) error {
		done, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, string(raw)), clientv3.OpPut(runKey(header.ID, "sequence"), "0")).Else(clientv3.OpGet(key)).Commit()
		// A header that is equal, to the nanosecond of its creation, is this one: an answer got lost.
		exists = err == nil && !done.Succeeded && string(done.Responses[0].GetResponseRange().Kvs[0].Value) != string(raw)
		return err
	})
	if err != nil {
		return s.fail("create run", header.ID, err)
	}
	if exists {
		return fault.Newf("create run", fault.Exists, header.ID, "there is a run of this ID already")
	}
	return nil
}

// Runs lists all runs, newest first, without their frozen content.
func (s *Store) Runs(ctx context.Context) ([]Header, error) {
	ids, err := s.ids(ctx)
	if err != nil {
		return nil, err
	}
	var out []Header
	for _, id := range ids {
		header, err := s.header(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, header)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Created.After(out[j].Created) })
	return out, nil
}

func (s *Store) ids(ctx context.Context) ([]string, error) {
	found, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, s.fail("list runs", "", err)
	}
	var ids []string
	for _, kv := range found.Kvs {
		if id, ok := strings.CutSuffix(strings.TrimPrefix(string(kv.Key), prefix), "/header"); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Header returns a run's header with its frozen content. A unique prefix of its ID will do.
func (s *Store) Header(ctx context.Context, id string) (Header, error) {
	ids, err := s.ids(ctx)
	if err != nil {
		return Header{}, err
	}
	var matches []string
	for _, known := range ids {
		if known == id {
			matches = []string{id}
			break
		}
		if strings.HasPrefix(known, id) {
			matches = append(matches, known)
		}
	}
	if len(matches) == 0 {
		return Header{}, fault.Newf("find run", fault.NotFound, id, "there is no such run: muster runs list shows all")
	}
	if len(matches) > 1 {
		return Header{}, fault.Newf("find run", fault.Invalid, id, "several runs begin so: %s", strings.Join(matches, ", "))
	}
	header, err := s.header(ctx, matches[0])
	if err != nil {
		return Header{}, err
	}
	parts, err := s.client.Get(ctx, runKey(header.ID, "frozen/"), clientv3.WithPrefix())
	if err != nil {
		return Header{}, s.fail("read run", header.ID, err)
	}
	for _, part := range parts.Kvs {
		header.Frozen = append(header.Frozen, part.Value...)
	}
	return header, nil
}

func (s *Store) header(ctx context.Context, id string) (Header, error) {
	found, err := s.client.Get(ctx, runKey(id, "header"))
	if err != nil {
		return Header{}, s.fail("read run", id, err)
	}
	if len(found.Kvs) == 0 {
		return Header{}, fault.New("read run", fault.NotFound, id, nil)
	}
	var header Header
	if err := json.Unmarshal(found.Kvs[0].Value, &header); err != nil {
		return Header{}, fault.New("read run", fault.Corrupt, id, err)
	}
	if header.Version > Version {
		return Header{}, fault.Newf("read run", fault.Unsupported, id,
			"it is in format %d and this muster reads up to %d: use a newer muster", header.Version, Version)
	}
	return header, nil
}

// State returns the type of a run's newest event that is about the run itself, empty when it has none.
func (s *Store) State(ctx context.Context, id string) (string, error) {
	found, err := s.client.Get(ctx, runKey(id, "state"))
	if err != nil || len(found.Kvs) == 0 {
		return "", s.fail("read run", id, err)
	}
	return string(found.Kvs[0].Value), nil
}

// Events returns a run's events with a sequence number over after.
func (s *Store) Events(ctx context.Context, id string, after int64) ([]Event, error) {
	events, _, err := s.events(ctx, id, after)
	return events, err
}

// events also returns the revision it read at, from which a watch goes on without a gap.
func (s *Store) events(ctx context.Context, id string, after int64) ([]Event, int64, error) {
	parts, err := s.archived(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	if parts > 0 {
		events, err := s.readArchive(ctx, id, after)
		return events, 0, err
	}
	var out []Event
	var revision int64
	end := clientv3.GetPrefixRangeEnd(runKey(id, "events/"))
	for from := eventKey(id, after+1); ; {
		options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(1000), clientv3.WithRev(revision)}
		page, err := s.client.Get(ctx, from, options...)
		if err != nil {
			return nil, 0, s.fail("read journal", id, err)
		}
		revision = page.Header.Revision
		for _, kv := range page.Kvs {
			event, err := decodeEvent(kv.Value)
			if err != nil {
				return nil, 0, err
			}
			out = append(out, event)
		}
		if !page.More && len(out) == 0 { // they may have been packed since we looked
			return s.eventsSincePacked(ctx, id, after, revision)
		}
		if !page.More {
			return out, revision, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func decodeEvent(raw []byte) (Event, error) {
	var event Event
	if err := json.Unmarshal(raw, &event); err != nil {
		return event, fault.New("read journal", fault.Corrupt, "event", err)
	}
	if event.Version > Version {
		return event, fault.Newf("read journal", fault.Unsupported, event.Type,
			"the event is in format %d and this muster reads up to %d: use a newer muster", event.Version, Version)
	}
	return event, nil
}

// Watch calls fn for every event after a sequence number, first those that are there and then each
// as it comes, until ctx ends or fn returns an error.
func (s *Store) Watch(ctx context.Context, id string, after int64, fn func(Event) error) error {
	history, revision, err := s.events(ctx, id, after)
	if err != nil {
		return err
	}
	for _, event := range history {
		if err := fn(event); err != nil {
			return err
		}
	}
	if revision == 0 { // archived: nothing more comes
		return nil
	}
	for response := range s.client.Watch(clientv3.WithRequireLeader(ctx), runKey(id, "events/"), clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := response.Err(); err != nil {
			return s.fail("watch run", id, err)
		}
		for _, change := range response.Events {
			if change.Type != clientv3.EventTypePut {
				continue
			}
			event, err := decodeEvent(change.Kv.Value)
			if err != nil {
				return err
			}
			if err := fn(event); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// Delete removes a run and all its events. Nobody may own it.
func (s *Store) Delete(ctx context.Context, id string) error {
	done, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(runKey(id, "owner")), "=", 0)).
		Then(clientv3.OpDelete(runKey(id, ""), clientv3.WithPrefix())).Commit()
	if err == nil && !done.Succeeded {
		return fault.Newf("delete run", fault.Busy, id, "somebody works on it")
	}
	return s.fail("delete run", id, err)
}

// patienceLimit bounds how long a request is repeated whose server comes back: another process takes an
// embedded one over, or a cluster elects a leader.
const patienceLimit = 30 * time.Second

// patiently repeats a request that can be repeated, as long as it fails for reasons that pass.
func (s *Store) patiently(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patienceLimit)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := request(ctx)
		if err == nil || !passes(err) || s.broken() != nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// broken is the reason why the embedded server of this process has ended, nil while it works.
func (s *Store) broken() error {
	if s.host == nil {
		return nil
	}
	return s.host.failure()
}

func (s *Store) fail(op, id string, err error) error {
	if err == nil {
		return nil
	}
	if broken := s.broken(); broken != nil {
		return broken
	}
	if strings.Contains(err.Error(), "database space exceeded") || strings.Contains(err.Error(), "no space left") {
		return fault.New(op, fault.NoSpace, id, err)
	}
	return fault.New(op, fault.Transient, id, err)
}
