package database_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/state/repository"
)

// oraclePassword has what a shell and SQL*Plus would take for theirs.
const oraclePassword = `planted $x & 'y' @z`

// transcripts are a home of Oracle's tools in which stand-ins replay transcripts: no Oracle.
type transcripts struct {
	t    *testing.T
	home string
}

func newTranscripts(t *testing.T) transcripts {
	t.Helper()
	o := transcripts{t, filepath.Join(t.TempDir(), "home")}
	if err := os.CopyFS(o.home, os.DirFS("testdata/oracle")); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"log", "directory", "rmanfolder"} {
		if err := os.Mkdir(filepath.Join(o.home, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sqlplus", "expdp", "impdp", "rman"} {
		if err := os.Chmod(filepath.Join(o.home, "bin", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o.say("expdp", "whole", 0)
	o.say("impdp", "whole", 0)
	return o
}

// say chooses what a program of Data Pump says, and ends with.
func (o transcripts) say(program, transcript string, code int) {
	o.t.Helper()
	said, err := os.ReadFile(filepath.Join(o.home, program, transcript))
	if err != nil {
		o.t.Fatal(err)
	}
	o.write(program+".said", string(said))
	o.write(program+".code", fmt.Sprint(code))
}

// answer has statements that hold the pattern answered so, before all other transcripts.
func (o transcripts) answer(pattern, answer string) {
	o.t.Helper()
	o.write(fmt.Sprintf("sqlplus/00-%x", sha256.Sum256([]byte(pattern))), pattern+"\n"+answer)
}

func (o transcripts) write(name, text string) {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.home, name), []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// asked is what each call of a program was given, without what it could have seen elsewhere.
func (o transcripts) asked(program string) []string {
	o.t.Helper()
	files, err := filepath.Glob(filepath.Join(o.home, "log", program+".*"))
	if err != nil {
		o.t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		if strings.HasSuffix(file, ".answer") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			o.t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

// keepsSecrets looks for the password in all arguments and environments.
func (o transcripts) keepsSecrets() {
	o.t.Helper()
	seen := o.asked("seen")
	if len(seen) == 0 {
		o.t.Fatal("no program was called")
	}
	for _, text := range seen {
		if strings.Contains(text, "planted") {
			o.t.Errorf("the password is seen in %s", text)
		}
		if !strings.Contains(text, "NLS_LANG=AMERICAN_AMERICA.AL32UTF8") {
			o.t.Errorf("its language may be another: %s", text)
		}
	}
	for _, text := range o.asked("sqlplus") {
		if !strings.Contains(text, "connect backup/\""+oraclePassword+"\"@//db.example:1521/ORCLPDB1\n") {
			o.t.Errorf("another logon: %s", text)
		}
	}
}

// left are the files in a folder of the home.
func (o transcripts) left(folder string) []string {
	o.t.Helper()
	entries, err := os.ReadDir(filepath.Join(o.home, folder))
	if err != nil {
		o.t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func (o transcripts) read(name string) string {
	o.t.Helper()
	text, err := os.ReadFile(filepath.Join(o.home, name))
	if err != nil {
		o.t.Fatal(err)
	}
	return string(text)
}

// oracleMark is what names jobs and files of a test's task.
func oracleMark(t *testing.T) string { return "MUSTER_" + strings.ToUpper(oracleToken(t)[:12]) }

func oracleToken(t *testing.T) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(t.Name())))[:32] }

func (o transcripts) server(t *testing.T, settings map[string]string) *database.Server {
	t.Helper()
	engine, err := database.Find("oracle", nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{
		"home": o.home, "connect": "//db.example:1521/ORCLPDB1", "user": "backup", "parallel": "3", "folder": filepath.Join(o.home, "rmanfolder"),
	}
	maps.Copy(all, settings)
	server, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "erp", Engine: "oracle", Settings: all, Secrets: map[string]plans.DatabaseSecret{"password": {Env: "X"}}},
		Engine:   engine, Place: shell.Runner{}, Secrets: map[string]string{"password": oraclePassword}, Mask: secret.NewMask(oraclePassword), Token: oracleToken(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func oracleBackup(t *testing.T, server *database.Server, store database.Store, mode string) (database.Backup, error) {
	t.Helper()
	return server.Backup(t.Context(), database.BackupConfig{Mode: mode, Store: store, Progress: progress{}, Now: time.Now, Digests: true})
}

func contentOf(t *testing.T, store *repository.Repository, part database.Stored) string {
	t.Helper()
	from, err := store.Open(t.Context(), part.Object.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	content, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
