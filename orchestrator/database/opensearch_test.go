package database_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
	"github.com/musterdr/muster/testenv/opensearch"
)

// searching is a server of the engine in a test.
type searching struct {
	engine, token, password string
	change                  func(*plans.EngineSpec)
	settings                map[string]string
}

func (c searching) at(t *testing.T, s *opensearch.Server) *database.Server {
	t.Helper()
	if c.engine == "" {
		c.engine = "opensearch"
	}
	if c.token == "" {
		c.token = "0123456789abcdef"
	}
	engine, err := database.Find(c.engine, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.change != nil {
		c.change(&engine.Spec)
	}
	settings := map[string]string{"scheme": "http", "host": "127.0.0.1", "port": s.Port, "folder": s.Snapshots()}
	maps.Copy(settings, c.settings)
	secrets := map[string]string{}
	if c.password != "" {
		secrets["password"] = c.password
	}
	server, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "shop/search", Engine: c.engine, Settings: settings},
		Engine:   engine, Place: shell.Runner{}, Secrets: secrets, Mask: secret.NewMask(c.password), Token: c.token,
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// searchContent is indices with what backups are known to lose.
func searchContent(t *testing.T, s *opensearch.Server) {
	t.Helper()
	s.Must(t, "PUT", "/_ingest/pipeline/stamp", `{"processors":[{"set":{"field":"stamped","value":true}}]}`)
	s.Must(t, "PUT", "/_index_template/shop", `{"index_patterns":["shop-*"],"template":{"settings":{"number_of_replicas":0},"mappings":{"properties":{"name":{"type":"keyword"}}}}}`)
	s.Must(t, "PUT", "/_template/old", `{"index_patterns":["old-*"],"settings":{"number_of_replicas":0}}`)
	s.Must(t, "PUT", "/_cluster/settings", `{"persistent":{"search.default_search_timeout":"50m"}}`)
	s.Must(t, "PUT", "/shop-orders", `{"settings":{"number_of_shards":2},"aliases":{"orders":{},"few":{"filter":{"term":{"name":"n1"}}}}}`)
	s.Must(t, "PUT", "/shop-none", "")
	s.Must(t, "PUT", "/shop-%C3%BC%2B%25", "")
	s.Must(t, "PUT", "/.hidden-system", `{"settings":{"index.hidden":true,"number_of_replicas":0}}`)
	var text strings.Builder
	for i := range 500 {
		fmt.Fprintf(&text, `{"index":{"_index":"shop-orders","_id":"o %d"}}`+"\n"+`{"name":"n%d","price":%d.50,"deep":{"b":[1,null],"a":true,"c":"\\é\t"},"padding":"%s"}`+"\n", i, i%5, i, strings.Repeat("x", i))
	}
	for i := range 9 {
		fmt.Fprintf(&text, `{"index":{"_index":"shop-ü+%%"}}`+"\n"+`{"i":%d}`+"\n", i)
	}
	searchBulk(t, s, text.String())
	s.Must(t, "DELETE", "/shop-orders/_doc/o%207", "")
	s.Must(t, "PUT", "/shut", `{"settings":{"number_of_replicas":0}}`)
	s.Must(t, "POST", "/shut/_close", "")
}

func searchBulk(t *testing.T, s *opensearch.Server, lines string) {
	t.Helper()
	if answer := s.Must(t, "POST", "/_bulk?filter_path=errors", lines); answer != `{"errors":false}` {
		t.Fatal(answer)
	}
}

// searchSame compares what two servers tell of their definitions.
func searchSame(t *testing.T, source, target *opensearch.Server) {
	t.Helper()
	for _, path := range []string{
		"/shop-*/_mapping", "/shop-*/_alias", "/_index_template/shop", "/_template/old", "/_ingest/pipeline", "/_cluster/settings", "/shop-*/_search?size=1000&sort=_doc&filter_path=hits.total",
	} {
		was, is := source.Must(t, "GET", path, ""), target.Must(t, "GET", path, "")
		if !sameJSON(t, was, is) {
			t.Errorf("%s differs: %s", path, firstDifference(was, is))
		}
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var canonical [2]string
	for i, text := range []string{a, b} {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		canonical[i] = fmt.Sprint(value)
	}
	return canonical[0] == canonical[1]
}

// searchLeft is what Muster has left at a server.
func searchLeft(t *testing.T, s *opensearch.Server) []string {
	t.Helper()
	left, err := filepath.Glob(s.Snapshots() + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/_cat/repositories?h=id", "/_cat/indices/muster*?h=index"} {
		left = append(left, strings.Fields(s.Must(t, "GET", path, ""))...)
	}
	return left
}

// transfers writes numbered documents until stop is called; acknowledged is the number of the last.
func transfers(t *testing.T, s *opensearch.Server) (acknowledged func() int, stop func() error) {
	t.Helper()
	s.Must(t, "PUT", "/transfers", `{"settings":{"number_of_shards":3,"number_of_replicas":0}}`)
	var last atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	first, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 1; ctx.Err() == nil; n++ {
			if _, err := s.Do(t.Context(), "PUT", fmt.Sprintf("/transfers/_doc/%d", n), fmt.Sprintf(`{"n":%d}`, n)); err != nil {
				ended <- err
				return
			}
			last.Store(int64(n))
			if n == 100 {
				close(first)
			}
		}
		ended <- nil
	}()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() }) // the test has asked for the error, or has failed
	select {
	case <-first:
	case err := <-ended:
		t.Fatal(err)
	}
	return func() int { return int(last.Load()) }, stop
}

// transferred expects every transfer up to `least`, and returns how many there are.
func transferred(t *testing.T, into *database.Server, least int) int {
	t.Helper()
	rows, err := into.Query(t.Context(), "transfers", fmt.Sprintf(`{"size":0,"aggs":{"early":{"filter":{"range":{"n":{"lte":%d}}},"aggs":{"sum":{"sum":{"field":"n"}}}},"all":{"value_count":{"field":"n"}}}}`, least))
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	row := rows[0].(map[string]any)
	early := row["early"].(map[string]any)
	sum, err := early["sum"].(map[string]any)["value"].(json.Number).Float64()
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(early["doc_count"]) != fmt.Sprint(least) || int(sum) != least*(least+1)/2 {
		t.Errorf("of %d transfers %v came back, with a sum of %v", least, early["doc_count"], sum)
	}
	all, err := row["all"].(map[string]any)["value"].(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return int(all)
}

// Every document that was acknowledged before the backup began is in it, while writers go on; digests are of what
// they left alone.
func TestOpenSearch(t *testing.T) {
	shared := t.TempDir()
	source, target := opensearch.Need(t, opensearch.OpenSearch, shared), opensearch.Need(t, opensearch.OpenSearch, shared)
	searchContent(t, source)
	source.Must(t, "PUT", "/_index_template/logs", `{"index_patterns":["logs-*"],"data_stream":{},"template":{"settings":{"number_of_replicas":0}}}`)
	source.Must(t, "POST", "/logs-shop/_doc", `{"@timestamp":"2026-01-01T00:00:00Z","text":"sold"}`)
	store := newRepository(t)
	server, into := searching{}.at(t, source), searching{}.at(t, target)
	if problems, err := server.Check(t.Context(), ""); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	acknowledged, stop := transfers(t, source)
	before, held := 0, 0
	backup, err := server.Backup(t.Context(), database.BackupConfig{
		Store: store, Progress: whenHeld{call: func() { held = acknowledged() }}, Digests: true,
		Now: func() time.Time {
			before = acknowledged()
			return time.Now()
		},
	})
	after := acknowledged()
	if err := errors.Join(err, stop()); err != nil {
		t.Fatal(err)
	}
	t.Log("acknowledged before", before, "held", held, "after", after, backup.Facts, backup.Digests)
	if left := searchLeft(t, source); len(left) > 0 {
		t.Errorf("the source has %v", left)
	}
	if len(backup.Digests) != 5 || !slices.Contains(backup.Digests, database.Digest{Scope: "shop-none", Name: "shop-none", Count: "0", Checksum: "0"}) {
		t.Errorf("digests %v", backup.Digests)
	}
	for _, d := range backup.Digests {
		if (d.Checksum == database.Unsettled) != (d.Name == "transfers") {
			t.Errorf("a digest %v", d)
		}
	}
	restore := restoreOf(store, backup)
	comesBack(t, into, restore, backup)
	searchSame(t, source, target)
	if left := searchLeft(t, target); len(left) > 0 {
		t.Errorf("the target has %v", left)
	}
	if there := transferred(t, into, before); there < before || there > held {
		t.Errorf("%d transfers came back; %d were acknowledged before, %d when the snapshot was held", there, before, held)
	}
	if after <= before {
		t.Error("nobody wrote during the backup: the test shows nothing")
	}
	if names := strings.Fields(target.Must(t, "GET", "/_cat/indices?h=index,status&expand_wildcards=all&s=index", "")); fmt.Sprint(names) != "[.ds-logs-shop-000001 open shop-none open shop-orders open shop-ü+% open shut open transfers open]" {
		t.Error(names)
	}
	if answer := target.Must(t, "GET", "/logs-shop/_search?filter_path=hits.hits._source", ""); !strings.Contains(answer, "sold") {
		t.Error(answer)
	}

	t.Run("queries", func(t *testing.T) {
		for body, want := range map[string]string{
			`{"size":2,"_source":["price","deep"],"sort":"price","query":{"term":{"name":"n1"}}}`:                  `[map[deep:map[a:true b:[1 <nil>] c:\é	] price:1.5] map[deep:map[a:true b:[1 <nil>] c:\é	] price:6.5]]`,
			`{"size":1,"_source":false,"aggs":{"total":{"sum":{"field":"price"}}},"query":{"term":{"name":"n0"}}}`: `[map[total:map[value:24800.0]]]`,
			`{"size":1,"_source":["nothing"]}`:     `[map[]]`,
			`{"query":{"term":{"name":"nobody"}}}`: `[]`,
		} {
			if rows, err := into.Query(t.Context(), "orders", body); err != nil || fmt.Sprint(rows) != want {
				t.Errorf("%s: %v, %v", body, rows, err)
			}
		}
	})
	t.Run("differences", func(t *testing.T) {
		target.Must(t, "DELETE", "/shop-orders/_doc/o%201", "")
		target.Must(t, "POST", "/shop-none/_doc/1", `{}`)
		target.Must(t, "POST", "/shop-orders/_update/o%202", `{"doc":{"name":"other"}}`)
		target.Must(t, "PUT", "/shop-orders/_doc/new", `{}`)
		found, err := into.Digests(t.Context(), backup.Scopes, nil)
		different := database.Differences(backup.Digests, found, nil)
		if err != nil || fmt.Sprint(different) != "[shop-none of shop-none has 1 rows, had 0 shop-orders of shop-orders has other content in its 499 rows]" {
			t.Error(different, err)
		}
	})
	t.Run("over data", func(t *testing.T) {
		restore := restore
		err := into.Restore(t.Context(), restore)
		if err == nil || !strings.Contains(err.Error(), "index shop-orders") || !strings.Contains(err.Error(), "cluster settings") {
			t.Error(err)
		}
		if answer := target.Must(t, "GET", "/shop-none/_count?filter_path=count", ""); answer != `{"count":1}` {
			t.Error(answer)
		}
		restore.Replace = true
		comesBack(t, into, restore, backup)
		searchSame(t, source, target)
	})
	t.Run("other names", func(t *testing.T) {
		beside := searching{settings: map[string]string{"rename": "^(.+)$ drill-$1"}}.at(t, target)
		comesBack(t, beside, restore, backup)
		if answer := target.Must(t, "GET", "/_cat/aliases/orders?h=index", ""); answer != "shop-orders" {
			t.Error(answer)
		}
		if answer := target.Must(t, "GET", "/drill-shop-orders/_count?filter_path=count", ""); answer != `{"count":499}` {
			t.Error(answer)
		}
	})
	t.Run("again", func(t *testing.T) { againAddsLittle(t, source) })
	t.Run("by hand", func(t *testing.T) { searchByHand(t, source, target, restore) })
	t.Run("registered repository", func(t *testing.T) { searchSnapshot(t, source, target, shared) })
	t.Run("trouble", func(t *testing.T) { searchTrouble(t, source) })
	t.Run("Elasticsearch", func(t *testing.T) { searchAncestor(t, target) })
}

// size is how many bytes a folder holds.
func size(t *testing.T, dir string) int64 {
	t.Helper()
	var bytes int64
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		bytes += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// againAddsLittle: what did not change is stored once, though each backup's files have names of their own.
func againAddsLittle(t *testing.T, source *opensearch.Server) {
	random := rand.NewChaCha8([32]byte{})
	source.Must(t, "PUT", "/big", `{"settings":{"number_of_replicas":0},"mappings":{"enabled":false}}`)
	for range 4 {
		var text strings.Builder
		for range 1500 {
			noise := make([]byte, 1500)
			_, _ = random.Read(noise) // it never fails
			fmt.Fprintf(&text, `{"index":{"_index":"big"}}`+"\n"+`{"noise":"%s"}`+"\n", base64.StdEncoding.EncodeToString(noise))
		}
		searchBulk(t, source, text.String())
	}
	source.Must(t, "POST", "/big/_forcemerge?max_num_segments=1", "")
	key, err := repository.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := repository.Config{URL: "file://" + dir, Key: key, CacheDir: t.TempDir(), Now: time.Now}
	if err := repository.Create(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	var sizes []int64
	for range 2 {
		store, err := repository.Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = searching{}.at(t, source).Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now})
		if err == nil { // what is in no point need not be there
			_, err = store.Seal(t.Context(), repository.Manifest{ID: fmt.Sprint("point-", len(sizes)), Cluster: "test", Created: time.Now()}, nil)
		}
		if err := errors.Join(err, store.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, size(t, dir))
		source.Must(t, "PUT", "/big/_doc/new", `{"noise":"none"}`)
	}
	t.Log("the repository has", sizes)
	if sizes[0] < 8<<20 || sizes[1]-sizes[0] > sizes[0]/4 {
		t.Errorf("the repository had %d bytes, and has %d after a second backup", sizes[0], sizes[1])
	}
}

// searchByHand brings a backup back with tar and the server's API alone.
func searchByHand(t *testing.T, source, target *opensearch.Server, restore database.RestoreConfig) {
	target.Wipe(t)
	folder := target.Snapshots() + "/hand"
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	folders := map[string]bool{}
	for _, part := range restore.Parts {
		content, err := restore.Open(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		tar := exec.CommandContext(t.Context(), "tar", "-x", "-v", "-f", "-", "-C", folder)
		tar.Stdin = content
		text, err := tar.CombinedOutput()
		if errors.Join(err, content.Close()) != nil {
			t.Fatalf("%s %v", text, err)
		}
		made := slices.DeleteFunc(strings.Fields(string(text)), func(name string) bool { return !strings.HasSuffix(name, "/") })
		folders[strings.Join(made, " ")] = true
		if len(folders) != 1 || len(made) < 10 { // else two streams that come back at once make the same one, and one fails
			t.Errorf("%s makes the folders %v, others %v", part.Path, made, folders)
		}
	}
	target.Must(t, "PUT", "/_snapshot/hand", `{"type":"fs","settings":{"location":"`+folder+`","readonly":true}}`)
	target.Must(t, "POST", "/_snapshot/hand/muster/_restore?wait_for_completion=true", `{"indices":"*","include_global_state":true}`)
	searchSame(t, source, target)
	target.Must(t, "DELETE", "/_snapshot/hand", "")
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
}

// searchSnapshot is the mode in which the data stays in a repository of the server's.
func searchSnapshot(t *testing.T, source, target *opensearch.Server, shared string) {
	settings := map[string]string{"repository": "kept", "exclude": "big transfers logs-shop"}
	server := searching{settings: settings}.at(t, source)
	problems, err := server.Check(t.Context(), "snapshot")
	if err != nil || fault.KindOf(server.Refused("check", problems)) != fault.NotFound {
		t.Error(problems, err)
	}
	source.Must(t, "PUT", "/_snapshot/kept", `{"type":"fs","settings":{"location":"`+shared+`/kept","access_token":"planted-token"}}`)
	if problems, err := server.Check(t.Context(), "snapshot"); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Mode: "snapshot", Store: store, Progress: progress{}, Digests: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if indices := backup.Facts["indices"]; backup.Facts["dataStreams"] != "" || strings.Contains(indices, "logs") || strings.Contains(indices, "transfers") {
		t.Errorf("what is excluded is in the snapshot: %v", backup.Facts)
	}
	restore := restoreOf(store, backup)
	content, err := restore.Open(t.Context(), restore.Parts[0])
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(content)
	if err := errors.Join(err, content.Close()); err != nil || !json.Valid(text) || strings.Contains(string(text), "planted") || !strings.Contains(string(text), shared) {
		t.Fatalf("%s %v", text, err)
	}
	target.Wipe(t)
	err = searching{settings: settings}.at(t, target).Restore(t.Context(), restore)
	if fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	settings["register"] = "yes"
	into := searching{settings: settings}.at(t, target)
	comesBack(t, into, restore, backup)
	searchSame(t, source, target)
	if definition := target.Must(t, "GET", "/_snapshot/kept", ""); !strings.Contains(definition, `"readonly":"true"`) {
		t.Error(definition)
	}
	problems, err = into.Check(t.Context(), "snapshot")
	if err != nil || fault.KindOf(into.Refused("check", problems)) != fault.Denied {
		t.Error(problems, err)
	}
	if err := into.Restore(t.Context(), restore); err == nil || !strings.Contains(err.Error(), "it is there") {
		t.Error(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	_, err = server.Backup(ctx, database.BackupConfig{Mode: "snapshot", Store: store, Progress: whenHeld{call: cancel}, Now: time.Now})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left := source.Must(t, "GET", "/_cat/snapshots/kept?h=id", ""); left != "" {
		t.Errorf("a backup that was given up has left %s", left)
	}
	err = into.Restore(t.Context(), database.RestoreConfig{Mode: restore.Mode, Parts: restore.Parts, Facts: restore.Facts, Open: restore.Open, Progress: progress{}, Replace: true})
	if fault.KindOf(err) != fault.NotFound { // the repeat had the first snapshot's name, and took its place
		t.Error(err)
	}
	if answer := target.Must(t, "GET", "/shop-orders/_count?filter_path=count", ""); answer != `{"count":499}` {
		t.Error(answer)
	}
}

// searchAncestor: the other server's engine has the same scripts, and OpenSearch takes what Elasticsearch wrote.
func searchAncestor(t *testing.T, target *opensearch.Server) {
	source := opensearch.Need(t, opensearch.Elasticsearch)
	target.Wipe(t)
	searchContent(t, source)
	store := newRepository(t)
	server := searching{engine: "elasticsearch"}.at(t, source)
	if problems, err := server.Check(t.Context(), ""); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	acknowledged, stop := transfers(t, source)
	before := 0
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Digests: true, Now: func() time.Time {
		before = acknowledged()
		return time.Now()
	}})
	if err := errors.Join(err, stop()); err != nil {
		t.Fatal(err)
	}
	t.Log(backup.Server, backup.Facts, backup.Digests)
	source.Wipe(t)
	for _, into := range []*database.Server{server, searching{}.at(t, target)} {
		comesBack(t, into, restoreOf(store, backup), backup)
		transferred(t, into, before)
	}
	searchSame(t, source, target)
	back, err := searching{}.at(t, target).Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Restore(t.Context(), restoreOf(store, back)); !strings.Contains(fmt.Sprint(err), "the backup is of opensearch") {
		t.Error(err)
	}
}
