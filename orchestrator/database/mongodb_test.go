package database_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/orchestrator/secret"
	"github.com/musterdr/muster/orchestrator/shell"
	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/testenv/mongodb"
)

func mongodbServer(t *testing.T, s *mongodb.Server, settings, secrets map[string]string) *database.Server {
	t.Helper()
	engine, err := database.Find("mongodb", nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"port": s.Port}
	maps.Copy(all, settings)
	mask := secret.NewMask()
	entries := map[string]plans.DatabaseSecret{}
	for name, value := range secrets {
		entries[name] = plans.DatabaseSecret{Env: "X"}
		mask = secret.NewMask(value)
	}
	server, err := database.NewServer(database.ServerConfig{
		Database: plans.Database{Name: "shop/till", Engine: "mongodb", Settings: all, Secrets: entries},
		Engine:   engine, Place: shell.Runner{}, Secrets: secrets, Mask: mask, Token: tokenOf(t.Name(), all),
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func mongodbJS(t *testing.T, s *mongodb.Server, script string) string {
	t.Helper()
	out, err := s.JS(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mongodbEverything is what a dump can lose: types that look alike, odd names, an empty collection, indexes.
const mongodbEverything = `
const odd = server.getDB('odd-Name_1');
odd.getCollection('t a-b.ç').insertMany([
  {_id: Int32(1), n: Int32(5)}, {_id: Double(2), n: Double(5)}, {_id: Long('3'), n: Long('9007199254740993')},
  {_id: ObjectId('65f0c0ffee65f0c0ffee65f0'), at: new Date('2026-03-29T02:30:00.123Z'), raw: BinData(0, 'AP8NChoR'), re: /a"b/i, none: null, nested: {b: [1, {}, null], a: 'grün\t"x"'}},
  {_id: 'text', ts: Timestamp({t: 7, i: 9}), zero: -0.0, large: 1e300},
]);
odd.createCollection('hollow');
const shop = server.getDB('shop');
shop.account.insertMany([...Array(1000).keys()].map(i => ({_id: i, owner: 'o' + i % 10, balance: Int32(100)})));
shop.account.createIndex({owner: 1, balance: -1}, {name: 'by owner'});
shop.account.createIndex({owner: 1, _id: 1}, {name: 'unique', unique: true});
`

// Of a server that is no member of a replica set there is no moment, which is told, and recorded. Content that
// nobody changed meanwhile comes back as it was.
func TestMongoDBStandalone(t *testing.T) {
	source, target := mongodb.Need(t, mongodb.Config{}), mongodb.Need(t, mongodb.Config{})
	mongodbJS(t, source, mongodbEverything)
	server := mongodbServer(t, source, nil, nil)
	problems, err := server.Check(t.Context(), "")
	if err != nil || len(problems) != 1 || problems[0].Kind != "info" || !strings.Contains(problems[0].Text, "of no single moment") {
		t.Fatal(problems, err)
	}
	store := newRepository(t)
	acknowledged, stop := mongodbWriter(t, source, `for (let seq = 1; ; seq++) { server.getDB('busy').log.insertOne({_id: seq}); print(seq); sleep(5); }`)
	before := 0
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: progress{}, Digests: true, Now: func() time.Time {
		before = acknowledged()
		return time.Now()
	}})
	stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(backup.Facts, backup.Digests)
	if backup.PointInTime || backup.Facts["pointInTime"] != "false" || backup.Facts["optime"] != "" || backup.Facts["withoutDigest"] != "1" {
		t.Error(backup.PointInTime, backup.Facts)
	}
	into := mongodbServer(t, target, nil, nil)
	restore := restoreOf(store, backup)
	if found := comesBack(t, into, restore, backup); len(found) != 8 {
		t.Error(found)
	}
	if have := mongodbNumber(t, target, "print(server.getDB('busy').log.countDocuments({_id: {$lte: "+strconv.Itoa(before)+"}}))"); before == 0 || have != before {
		t.Errorf("%d of %d lines came back that were acknowledged before", have, before)
	}
	mongodbJS(t, target, `
server.getDB('odd-Name_1').getCollection('t a-b.ç').updateOne({_id: 2}, {$set: {n: Int32(5)}});
server.getDB('shop').account.dropIndex('by owner');
server.getDB('odd-Name_1').hollow.drop();`)
	found, err := into.Digests(t.Context(), []string{"odd-Name_1", "shop"}, nil)
	differences := fmt.Sprint(database.Differences(backup.Digests, found, nil))
	for _, what := range []string{"t a-b.ç of odd-Name_1 has other content in its 5 rows", "account (indexes) of shop has 2 rows, had 3", "hollow of odd-Name_1 is missing"} {
		if err != nil || !strings.Contains(differences, what) {
			t.Errorf("%s is not told: %s, %v", what, differences, err)
		}
	}
	if err := into.Restore(t.Context(), restore); err == nil || !strings.Contains(err.Error(), "it holds collections") {
		t.Errorf("a restore over data: %v", err)
	}
	restore.Replace = true
	comesBack(t, into, restore, backup)
	if left := mongodbJS(t, target, "print(server.getDBNames().sort().join())"); left != "busy,odd-Name_1,shop" {
		t.Errorf("the target has %s", left)
	}
	mongodbQueries(t, into)
}

func mongodbQueries(t *testing.T, server *database.Server) {
	t.Helper()
	for statement, want := range map[string]string{
		`{aggregate: "account", pipeline: [{$group: {_id: null, sum: {$sum: "$balance"}}}]}`:     "[map[_id:<nil> sum:100000]]",
		`{find: "account", filter: {_id: {$lt: 2}}, sort: {_id: -1}, projection: {balance: 1}} `: "[map[_id:1 balance:100] map[_id:0 balance:100]]",
		`{aggregate: "account", pipeline: [{$match: {_id: -1}}]}`:                                "[]",
	} {
		if rows, err := server.Query(t.Context(), "shop", statement); err != nil || fmt.Sprint(rows) != want {
			t.Errorf("%s: %v, %v", statement, rows, err)
		}
	}
	if rows, err := server.Query(t.Context(), "shop", `{find: "account", batchSize: 7}`); err != nil || len(rows) != 1000 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if rows, err := server.Query(t.Context(), "shop", `{no: "command"}`); err == nil {
		t.Error(rows)
	}
}

// mongodbWriter runs a script that writes, and prints the number of each write that was acknowledged, until stop
// is called. It returns when the first one was.
func mongodbWriter(t *testing.T, s *mongodb.Server, script string) (acknowledged func() int, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var last atomic.Int64
	out, in := io.Pipe()
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Stream(ctx, script, in); ctx.Err() == nil {
			t.Error("the writer ended: ", err)
		}
		_ = in.Close() // it has no error
	}()
	go func() {
		var once sync.Once
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				last.Store(n)
			}
			once.Do(func() { close(begun) })
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(stop)
	select {
	case <-begun:
	case <-ended:
		t.FailNow()
	}
	return func() int { return int(last.Load()) }, stop
}

func mongodbNumber(t *testing.T, s *mongodb.Server, script string) int {
	t.Helper()
	n, err := strconv.Atoi(mongodbJS(t, s, script))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Money moves between a thousand accounts in twenty collections. FerretDB has no transactions, so that each move is
// two writes, made one after the other: write k takes from or gives to the account that k names. Accounts are large,
// so that many writes are made between the dumps of the first collection and of the last.
const (
	mongodbAccounts = 1000
	mongodbAt       = `
const collection = at => server.getDB(at % 2 ? 'east' : 'west').getCollection('account' + at % 20);
`
	mongodbMoney = mongodbAt + `
const text = 'x'.repeat(4000);
for (let c = 0; c < 20; c++) collection(c).insertMany([...Array(50).keys()].map(i => ({_id: 'a' + (c + 20 * i), balance: Int32(1000), writes: Int32(0), text: text})));`
	mongodbMoves = mongodbAt + `
for (let k = 0; ; k++) {
  const at = k * 7 % 1000, amount = k % 2 ? 10 : -10;
  collection(at).updateOne({_id: 'a' + at}, {$inc: {balance: Int32(amount), writes: Int32(1)}});
  print(k + 1);
}`
	mongodbBalances = mongodbAt + `
const all = {};
for (let c = 0; c < 20; c++) collection(c).find({}, {text: 0}).forEach(a => { all[a._id] = a; });
for (let at = 0; at < 1000; at++) print(all['a' + at].balance + ' ' + all['a' + at].writes);`
)

// What comes back of a replica set's member is what there was after some write, and without any later one: each
// account is as the first k writes left it.
func TestMongoDBOneMoment(t *testing.T) {
	source, target := mongodb.Need(t, mongodb.Config{ReplicaSet: true}), mongodb.Need(t, mongodb.Config{ReplicaSet: true})
	mongodbJS(t, source, mongodbMoney)
	server := mongodbServer(t, source, nil, nil)
	if problems, err := server.Check(t.Context(), ""); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	acknowledged, stop := mongodbWriter(t, source, mongodbMoves)
	before, atReady := 0, 0
	store := newRepository(t)
	backup, err := server.Backup(t.Context(), database.BackupConfig{Store: store, Progress: whenHeld{call: func() { atReady = acknowledged() }}, Digests: true, Now: func() time.Time {
		before = acknowledged()
		return time.Now()
	}})
	after := acknowledged()
	stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Log("acknowledged", before, "when ready", atReady, "at the end", after, "facts", backup.Facts)
	if seconds, count, is := strings.Cut(backup.Facts["optime"], ":"); !backup.PointInTime || !is || len(seconds) < 10 || count == "" {
		t.Error(backup.PointInTime, backup.Facts)
	}
	into := mongodbServer(t, target, nil, nil)
	comesBack(t, into, restoreOf(store, backup), backup)
	mongodbPrefix(t, target, atReady, after)
}

// mongodbPrefix finds out how many writes there are, and what they make of each account.
func mongodbPrefix(t *testing.T, s *mongodb.Server, least, most int) {
	t.Helper()
	lines := strings.Split(mongodbJS(t, s, mongodbBalances), "\n")
	writes, sum := 0, 0
	for _, line := range lines {
		var balance, n int
		if _, err := fmt.Sscan(line, &balance, &n); err != nil {
			t.Fatal(err)
		}
		writes += n
		sum += balance
	}
	if writes < least || writes > most+1 || most-least < 10 {
		t.Errorf("%d writes came back, %d were acknowledged when the backup was ready, %d at its end", writes, least, most)
	}
	if want := mongodbAccounts*1000 - 10*(writes%2); sum != want {
		t.Errorf("after %d writes the sum is %d, not %d", writes, sum, want)
	}
	balances, counts := make([]int, mongodbAccounts), make([]int, mongodbAccounts)
	for k := range writes {
		balances[k*7%mongodbAccounts] += 20*(k%2) - 10
		counts[k*7%mongodbAccounts]++
	}
	wrong := 0
	for at, line := range lines {
		if line != fmt.Sprint(1000+balances[at], " ", counts[at]) {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d accounts are not as %d writes leave them", wrong, len(lines), writes)
	}
}
