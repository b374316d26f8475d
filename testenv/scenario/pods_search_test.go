package scenario

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/workload"
)

// searchPod has a writer that logs numbered transfers, and an index that nobody writes to. Its repository "kept" is
// outside of its volume.
func searchPod(name, engine, image string) *podServer {
	outside := "/srv/" + name + "-kept"
	return &podServer{
		Server: workload.Server{
			Name: name, Image: image, Program: "/usr/local/bin/search-entrypoint", Password: "UNUSED_PASSWORD", Outside: outside,
			Env:   map[string]string{"DATA": podData + "/data", "SNAPSHOTS": podData + "/snapshots", "KEPT": outside},
			Ready: []string{"curl", "--silent", "--fail", "--output", "/dev/null", "http://127.0.0.1:9200/_cluster/health?wait_for_status=yellow&timeout=2s"},
		},
		engine: engine, settings: "{scheme: http, folder: " + podData + "/snapshots, repository: kept, register: yes}", secrets: "{}",
		client: searchBank, open: "open\n", books: "books\n",
		judge: judgeSearch, apart: true,
		bank: bank{transaction: plainTransaction, pause: 50 * time.Millisecond},
	}
}

const searchBank = `
set -e
call() { curl --silent --show-error --fail --header 'Content-Type: application/json' "$@"; }
server=http://127.0.0.1:9200 log=http://127.0.0.1:9200/log
while read -r n source target amount; do
  case $n in
  open)
    call --request PUT $log --output /dev/null --data '{"settings": {"number_of_shards": 1, "number_of_replicas": 0, "index.max_result_window": 1000000}, "mappings": {"properties": {"n": {"type": "long"}}}}'
    call --request PUT $server/_snapshot/kept --output /dev/null --data "{\"type\": \"fs\", \"settings\": {\"location\": \"$KEPT\"}}"
    seq 20000 | sed 's/.*/{"index": {"_id": "&"}}\n{"n": &}/' | call --request POST $server/bulk/_bulk --output /dev/null --data-binary @- ;;
  books)
    call --request POST $server/log,bulk/_refresh --output /dev/null
    call "$server/bulk/_search?filter_path=aggregations.all" --data '{"aggs": {"all": {"stats": {"field": "n"}}}}'
    echo
    call "$log/_search?size=1000000&filter_path=hits.hits._source" --data '{"sort": ["n"]}' | tr '}' '\n' | sed -n 's/.*"line":"\([^"]*\)".*/\1/p' ;;
  registered) call "$server/_cat/repositories?h=id"; call "$server/_snapshot/kept?filter_path=*.settings.readonly"; echo ;;
  snapshots) call "$server/_cat/snapshots/kept?h=id" ;;
  *) call --request PUT "$log/_doc/$n" --output /dev/null --data "{\"n\": $n, \"line\": \"$n $source $target $amount\"}"; echo $n ;;
  esac
done
`

// judgeSearch wants the index that nobody writes to, and then the log.
func judgeSearch(books []byte) (int, string) {
	still, log, _ := bytes.Cut(books, []byte("\n"))
	if want := `{"aggregations":{"all":{"count":20000,"min":1.0,"max":20000.0,"avg":10000.5,"sum":2.0001E8}}}`; string(still) != want {
		return 0, fmt.Sprintf("20,000 documents are %s", still)
	}
	return judgeLog(log)
}

// TestSearchInPods loses the volumes of search engines in pods while transfers are logged, and brings each back, in the
// mode whose data is in Muster's repository, and in that whose data is in the server's own.
func TestSearchInPods(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	servers := []*podServer{
		searchPod("search", "opensearch", testenv.OpenSearchImage),
		searchPod("elastic", "elasticsearch", testenv.ElasticsearchImage),
	}
	groups := []podGroup{{"snapshot", "snapshot", servers}, {"files", "files", servers}}
	s := podScenario(t, "podsearch", servers)
	s.startPods(t, servers)
	s.writePlans(t, groups)
	for _, p := range servers {
		p.begin(t, s)
	}
	points := s.backUpThroughBreaks(t, groups, len(groups))
	for _, p := range servers {
		p.wantNoLeftovers(t, s)
	}
	s.loseAndRestore(t, servers, groups, points)
	for _, p := range servers {
		if got := string(p.ask(t, s, p.client, "registered\n")); got != "kept\n"+`{"kept":{"settings":{"readonly":"true"}}}`+"\n" {
			t.Errorf("%s: restored from a repository that is registered anew, it has %s", p.Name, got)
		}
	}
}

// wantNoLeftovers wants one snapshot a point in the server's own repository, and nothing of the mode files.
func (p *podServer) wantNoLeftovers(t *testing.T, s *Scenario) {
	t.Helper()
	snapshots := string(p.ask(t, s, p.client, "snapshots\n"))
	if want := 1 + len(breakages); strings.Count(snapshots, "\n") != want {
		t.Errorf("%s has these snapshots for %d points:\n%s", p.Name, want, snapshots)
	}
	if got := string(p.ask(t, s, p.client, "registered\n")); got != "kept\n{}\n" {
		t.Errorf("%s: the backups left repositories: %s", p.Name, got)
	}
	if got := p.ask(t, s, "ls -A "+podData+"/snapshots", ""); len(got) > 0 {
		t.Errorf("%s: the backups left files: %s", p.Name, got)
	}
}
