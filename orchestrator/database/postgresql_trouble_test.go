package database_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv/postgres"
)

// breaking is a place whose connections break after so many bytes of output.
type breaking struct {
	shell.Place

	mu    sync.Mutex
	after []int64 // for the next scripts that write more than that
}

func (b *breaking) Run(ctx context.Context, script shell.Script) (int, error) {
	if script.Stdout != nil {
		script.Stdout = &broken{to: script.Stdout, from: b}
	}
	return b.Place.Run(ctx, script)
}

type broken struct {
	to    io.Writer
	from  *breaking
	bytes int64
}

func (b *broken) Write(p []byte) (int, error) {
	b.bytes += int64(len(p))
	b.from.mu.Lock()
	defer b.from.mu.Unlock()
	if len(b.from.after) > 0 && b.bytes > b.from.after[0] {
		b.from.after = b.from.after[1:]
		return 0, fault.Newf("run in pod", fault.Transient, "bank/ledger-0", "the connection broke")
	}
	return b.to.Write(p)
}

// TestPostgreSQLStreamsBreak breaks connections at random places. What the backup then calls whole is.
func TestPostgreSQLStreamsBreak(t *testing.T) {
	source := postgres.Need(t)
	source.Must(t, "postgres", `create table wide as select i, repeat(md5(i::text), 40) as text from generate_series(1, 80000) i`)
	source.Must(t, "postgres", `create table small as select i from generate_series(1, 50000) i`)
	place, store := &breaking{Place: shell.Runner{}}, newRepository(t)
	whole := 0
	for n := range 10 {
		for range 1 + n/3 {
			place.after = append(place.after, 1+rand.Int64N(20<<20))
		}
		server := postgresAt(t, place, source, postgres.Password, nil)
		backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now, Digests: true})
		if err != nil {
			if !fault.Is(err, fault.Transient) {
				t.Errorf("broken connections: %v (%v)", err, fault.KindOf(err))
			}
			continue
		}
		whole++
		target := postgres.Need(t)
		into := postgresServer(t, target, nil)
		if found := comesBack(t, into, restoreOf(store, backup), backup); len(found) < 2 {
			t.Error(found)
		}
		if err := target.Stop(t.Context(), "immediate"); err != nil {
			t.Fatal(err)
		}
	}
	if whole == 0 {
		t.Error("no backup has gone on after a part had begun anew")
	}
	nobodyLeft(t, source)
}

// nobodyLeft waits until the server has no session of Muster's any more: it sees the end of one a little later.
func nobodyLeft(t *testing.T, s *postgres.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		left := s.Must(t, "postgres", "select count(*), string_agg(query, '; ') from pg_stat_activity where application_name = 'muster'")
		if strings.HasPrefix(left, "0|") {
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			t.Fatalf("sessions are left: %s", left)
		}
	}
}

// postgresAt is a server that is reached through a place, with a password.
func postgresAt(t *testing.T, place shell.Place, s *postgres.Server, password string, settings map[string]string) *database.Server {
	t.Helper()
	engine, err := database.Find("postgresql", nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"host": s.Socket}
	for name, value := range settings {
		all[name] = value
	}
	server, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "shop/ledger", Engine: "postgresql", Settings: all, Secrets: map[string]plans.DatabaseSecret{"password": {Env: "X"}}},
		Engine:   engine, Place: place, Secrets: map[string]string{"password": password}, Mask: secret.NewMask(password), Token: tokenOf(t.Name(), all),
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// TestPostgreSQLRefuses holds what each trouble is called, and that the password is in none of the errors.
func TestPostgreSQLRefuses(t *testing.T) {
	source := postgres.Need(t)
	source.Must(t, "postgres", "create table filled as select i, md5(i::text) as text from generate_series(1, 300000) i")
	source.Must(t, "postgres", "create role reader login password 'planted-reader-password'")
	store := newRepository(t)
	backup := func(server *database.Server, mode string) error {
		_, err := server.Backup(t.Context(), database.BackupConfig{Mode: mode, Store: store, Progress: progress{}, Now: time.Now})
		return err
	}
	refused := func(what string, err error, kind fault.Kind, text string) {
		t.Helper()
		if !fault.Is(err, kind) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v (%v), want %v with %q", what, err, fault.KindOf(err), kind, text)
		}
		if err != nil && strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: the error gives a password away: %v", what, err)
		}
	}
	_, err := postgresAt(t, shell.Runner{}, source, "planted-wrong-password", nil).Check(t.Context(), "")
	refused("a wrong password", err, fault.Denied, "settings.user and secrets.password")
	_, err = postgresAt(t, shell.Runner{}, source, postgres.Password, map[string]string{"port": "1"}).Check(t.Context(), "")
	refused("nobody there", err, fault.Transient, "connection to server")
	reader := postgresAt(t, shell.Runner{}, source, "planted-reader-password", map[string]string{"user": "reader"})
	for _, mode := range []string{"logical", "physical"} {
		problems, err := reader.Check(t.Context(), mode)
		if err != nil {
			t.Fatal(err)
		}
		refused("a role without privileges, "+mode, reader.Refused("check database", problems), fault.Denied, "reader")
		refused("its backup, "+mode, backup(reader, mode), fault.Denied, "privilege")
	}
	folder := filepath.Join(source.Dir, "elsewhere")
	if _, err := source.Run(t.Context(), "mkdir", folder); err != nil {
		t.Fatal(err)
	}
	source.Must(t, "postgres", "create tablespace elsewhere location '"+folder+"'")
	server := postgresServer(t, source, nil)
	problems, err := server.Check(t.Context(), "physical")
	if err != nil {
		t.Fatal(err)
	}
	refused("tablespaces", server.Refused("check database", problems), fault.Unsupported, "use the logical mode")
	source.Must(t, "postgres", "drop tablespace elsewhere")

	whole, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	refused("a full disk", fullRestore(t, restoreOf(store, whole)), fault.NoSpace, "disk is full")

	path := source.Must(t, "postgres", "select pg_relation_filepath('filled')")
	if err := source.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(source.Data(), path), 3*8192+100)
	if err := source.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused("a corrupt page, logical", backup(server, "logical"), fault.Corrupt, "damaged")
	refused("a corrupt page, physical", backup(server, "physical"), fault.Corrupt, "damaged")
}

func damage(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("not what was written"), at); err != nil {
		t.Fatal(err)
	}
}

// fullRestore restores into a server whose disk has room for itself and no more.
func fullRestore(t *testing.T, config database.RestoreConfig) error {
	t.Helper()
	target := postgres.Blank(t)
	if err := os.Mkdir(target.Data(), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput(); err != nil {
			t.Fatal(fmt.Errorf("%s: %w: %s", name, err, out))
		}
	}
	run("mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", target.Data())
	t.Cleanup(func() { run("umount", "-l", target.Data()) })
	run("chown", "postgres:", target.Data())
	run("chmod", "700", target.Data())
	if err := target.Init(t.Context(), "min_wal_size = 32MB", "max_wal_size = 32MB"); err != nil {
		t.Fatal(err)
	}
	if err := target.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	run("sh", "-c", "head -c 200M /dev/zero | dd of="+target.Data()+"/filler bs=64k count=$(($(df --output=avail -k "+target.Data()+" | tail -1) / 64 - 8)) iflag=fullblock 2>/dev/null")
	err := postgresServer(t, target, nil).Restore(t.Context(), config)
	if stopped := target.Stop(t.Context(), "immediate"); stopped != nil {
		t.Fatal(stopped)
	}
	return err
}

// TestPostgreSQLUnlisted: a server whose databases could not be listed is not one without any.
func TestPostgreSQLUnlisted(t *testing.T) {
	source := postgres.Need(t)
	source.Must(t, "postgres", "create table kept as select 1 as i; create role reader login password 'planted-reader-password'")
	source.Must(t, "template1", "revoke select on pg_database from public")
	reader := postgresAt(t, shell.Runner{}, source, "planted-reader-password", map[string]string{"user": "reader"})
	_, err := reader.Backup(t.Context(), database.BackupConfig{Mode: "logical", Store: newRepository(t), Progress: progress{}, Now: time.Now})
	if err == nil || !strings.Contains(err.Error(), "list the parts") { // not only what comes after them
		t.Errorf("a backup whose databases could not be listed: %v", err)
	}
	if _, err := reader.Check(t.Context(), "logical"); err == nil || !strings.Contains(err.Error(), "permission denied for table pg_database") {
		t.Errorf("its check: %v", err)
	}
}
