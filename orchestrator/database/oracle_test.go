package database_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterdr/muster/orchestrator/cluster"
	"github.com/musterdr/muster/orchestrator/database"
	"github.com/musterdr/muster/providers/fault"
)

func TestOracleIsUnverified(t *testing.T) {
	t.Parallel()
	engine, err := database.Find("oracle", nil)
	if err != nil || engine.Spec.Unverified == "" {
		t.Errorf("no real server has run it: %q, %v", engine.Spec.Unverified, err)
	}
}

// TestOracleTranscriptLogical: the job writes two files where three workers could have.
func TestOracleTranscriptLogical(t *testing.T) {
	t.Parallel()
	source, target := newTranscripts(t), newTranscripts(t)
	server := source.server(t, nil)
	problems, err := server.Check(t.Context(), "logical")
	if err != nil || len(problems) != 1 || problems[0].Subject != "undo_retention" || len(source.left("directory")) > 0 {
		t.Fatal(problems, err, source.left("directory"))
	}
	store := newRepository(t)
	backup, err := oracleBackup(t, server, store, "logical")
	if err != nil {
		t.Fatal(err)
	}
	var content []string
	for _, part := range backup.Parts {
		content = append(content, contentOf(t, store, part))
	}
	if want := []string{source.read("dump/1"), source.read("dump/2"), ""}; !slices.Equal(content, want) {
		t.Errorf("the parts hold %q, want %q", content, want)
	}
	if left := source.left("directory"); len(left) > 0 {
		t.Errorf("left in the directory: %q", left)
	}
	if backup.Server != "19.0.0.0.0" || backup.Facts["scn"] != "5715397" || backup.Facts["dbid"] != "1234567890" || !slices.Equal(backup.Scopes, []string{"HR", "SHOP"}) {
		t.Error(backup)
	}
	var digests []string
	for _, d := range backup.Digests {
		digests = append(digests, d.Scope+" "+d.Name+" "+d.Count)
	}
	if want := []string{"HR EMPLOYEES 107", "HR EMPLOYEES_SEQ 1", "SHOP ORDERS 3"}; !slices.Equal(digests, want) {
		t.Errorf("digests %q", digests)
	}
	asOf := 0
	for _, text := range source.asked("sqlplus") {
		if strings.Contains(text, `"."' || t.table_name || '" as of scn 5715397' into`) {
			asOf++
		}
	}
	if asOf != 2 {
		t.Errorf("%d digests are as of the SCN", asOf)
	}
	mark := oracleMark(t)
	if want := []string{"userid=backup/\"" + oraclePassword + "\"@//db.example:1521/ORCLPDB1\ndirectory=DATA_PUMP_DIR\njob_name=" + mark + "\nparallel=3\nnologfile=yes\n" +
		"flashback_scn=5715397\ndumpfile=" + mark + "_01.dmp," + mark + "_02.dmp," + mark + "_03.dmp\nfull=yes\nexclude=table:\"= 'MUSTER_RESTORE'\"\n"}; !slices.Equal(source.asked("expdp"), want) {
		t.Errorf("expdp was given %q", source.asked("expdp"))
	}
	source.keepsSecrets()

	into := target.server(t, nil)
	restore := restoreOf(store, backup)
	if err := into.Restore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	if want := []string{"userid=backup/\"" + oraclePassword + "\"@//db.example:1521/ORCLPDB1\ndirectory=DATA_PUMP_DIR\njob_name=" + mark + "\nparallel=3\nnologfile=yes\n" +
		"dumpfile=" + mark + "_01.dmp," + mark + "_02.dmp\nfull=yes\n"}; !slices.Equal(target.asked("impdp"), want) {
		t.Errorf("impdp was given %q", target.asked("impdp"))
	}
	if first, second := target.read("taken/"+mark+"_01.dmp"), target.read("taken/"+mark+"_02.dmp"); first != content[0] || second != content[1] {
		t.Errorf("impdp found %q and %q", first, second)
	}
	if left := target.left("directory"); len(left) > 0 {
		t.Errorf("left in the directory: %q", left)
	}
	begun := slices.ContainsFunc(target.asked("sqlplus"), func(text string) bool {
		return strings.Contains(text, "insert into muster_restore select '"+oracleToken(t)+"', 'HR'") && strings.Contains(text, "insert into muster_restore select '"+oracleToken(t)+"', 'SHOP'")
	})
	unmarked := slices.ContainsFunc(target.asked("sqlplus"), func(text string) bool {
		return strings.Contains(text, "delete from muster_restore where token = '"+oracleToken(t)+"'")
	})
	if !begun || !unmarked {
		t.Errorf("marked %v, and the mark removed %v", begun, unmarked)
	}
	target.keepsSecrets()
}

func TestOracleTranscriptSchemas(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	server := o.server(t, map[string]string{"schemas": "HR Odd", "user": "sys", "role": "sysdba"})
	o.answer("select u.username from dba_users u", "HR\n")
	problems, err := server.Check(t.Context(), "")
	if err != nil || fault.KindOf(server.Refused("check", problems)) != fault.NotFound || !strings.Contains(fmt.Sprint(problems), "schema Odd") || strings.Contains(fmt.Sprint(problems), "HR") {
		t.Error(problems, err)
	}
	if _, err := oracleBackup(t, server, newRepository(t), ""); err != nil {
		t.Fatal(err)
	}
	asked := o.asked("expdp")
	if len(asked) != 1 || !strings.Contains(asked[0], "\nschemas=\"HR\",\"Odd\"\n") || strings.Contains(asked[0], "full=") ||
		!strings.HasPrefix(asked[0], "userid='sys/\""+oraclePassword+"\"@//db.example:1521/ORCLPDB1 as sysdba'\n") {
		t.Errorf("expdp was given %q", asked)
	}
}

// TestOracleTranscriptExport has logs of exports that did not go well, whatever the exit code.
func TestOracleTranscriptExport(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		transcript string
		code       int
		kind       fault.Kind
		text       string
	}{
		{"snapshot-too-old", 5, fault.Transient, "ORA-01555"},
		{"snapshot-too-old", 0, fault.Transient, "ORA-01555"},
		{"corrupt", 5, fault.Corrupt, "ORA-01578"},
		{"no-space", 1, fault.NoSpace, "ORA-27072"},
		{"unsaid", 5, fault.Internal, "completed with 2 error(s)"},
		{"cut-off", 0, fault.Internal, "did not come to its end"},
		{"whole", 1, fault.Internal, "expdp ended with 1"},
		{"no-listener", 1, fault.Transient, "ORA-12541"},
		{"denied", 1, fault.Denied, "ORA-01017"},
		{"directory", 1, fault.NotFound, "ORA-39087"},
		{"edition", 1, fault.Unsupported, "ORA-39094"},
		{"no-job", 1, fault.Invalid, "ORA-31626"},
	} {
		t.Run(fmt.Sprint(test.transcript, test.code), func(t *testing.T) {
			t.Parallel()
			o := newTranscripts(t)
			o.say("expdp", test.transcript, test.code)
			_, err := oracleBackup(t, o.server(t, nil), newRepository(t), "")
			if fault.KindOf(err) != test.kind || !strings.Contains(fmt.Sprint(err), test.text) {
				t.Errorf("%v: %v", fault.KindOf(err), err)
			}
			if left := o.left("directory"); len(left) > 0 {
				t.Errorf("left in the directory: %q", left)
			}
		})
	}
	t.Run("unencrypted", func(t *testing.T) {
		t.Parallel()
		o := newTranscripts(t)
		o.say("expdp", "unencrypted", 0)
		if _, err := oracleBackup(t, o.server(t, nil), newRepository(t), ""); err != nil {
			t.Error(err)
		}
	})
}

// TestOracleTranscriptLostFile: a dump file that the log names is not where the tools look.
func TestOracleTranscriptLostFile(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	server := o.server(t, map[string]string{"path": t.TempDir()})
	problems, err := server.Check(t.Context(), "")
	if err != nil || fault.KindOf(server.Refused("check", problems)) != fault.NotFound || !strings.Contains(fmt.Sprint(problems), "settings.path") {
		t.Error(problems, err)
	}
	if _, err := oracleBackup(t, server, newRepository(t), ""); !strings.Contains(fmt.Sprint(err), "_01.dmp is not there") {
		t.Error(err)
	}
}

// TestOracleTranscriptNoInstant: what fails before there is an instant is told, and no job begins.
func TestOracleTranscriptNoInstant(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{"ORA-01031: insufficient privileges\n": "ORA-01031", "fact\tscn\t\n": "no SCN"} {
		o := newTranscripts(t)
		o.answer("'characterSet'", answer)
		_, err := oracleBackup(t, o.server(t, nil), newRepository(t), "")
		if !strings.Contains(fmt.Sprint(err), want) || len(o.asked("expdp")) > 0 {
			t.Errorf("%v", err)
		}
	}
}

// TestOracleTranscriptJobIsStopped: what else belongs to the backup fails while the job goes on in the server.
func TestOracleTranscriptJobIsStopped(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	o.write("hang", "")
	o.answer("from dba_tables t where owner = 'HR'", "declare\n*\nERROR at line 1:\nORA-01555: snapshot too old: rollback segment number 9\n")
	_, err := oracleBackup(t, o.server(t, nil), newRepository(t), "")
	if fault.KindOf(err) != fault.Transient || !strings.Contains(err.Error(), "ORA-01555") {
		t.Error(err)
	}
	stops := 0
	for _, text := range o.asked("sqlplus") {
		if strings.Contains(text, "dbms_datapump.stop_job") && strings.Contains(text, "'"+oracleMark(t)+"'") {
			stops++
		}
	}
	if stops != 2 { // of an earlier try, and its own
		t.Errorf("%d times a job was stopped", stops)
	}
}

// oracleDump is a backup to restore from.
func oracleDump(t *testing.T) database.RestoreConfig {
	t.Helper()
	store := newRepository(t)
	backup, err := oracleBackup(t, newTranscripts(t).server(t, nil), store, "")
	if err != nil {
		t.Fatal(err)
	}
	return restoreOf(store, backup)
}

func TestOracleTranscriptImport(t *testing.T) {
	t.Parallel()
	restore := oracleDump(t)
	for _, test := range []struct {
		transcript string
		code       int
		tolerate   string
		kind       fault.Kind
		text       string
	}{
		{"warnings", 5, "", 0, ""},
		{"resumed", 0, "", 0, ""},
		{"tablespace", 5, "", fault.NotFound, "ORA-00959"},
		{"grant", 5, "", fault.Internal, "ORA-01917"},
		{"grant", 0, "ORA-01918 ORA-01916", fault.Internal, "ORA-01917"},
		{"grant", 5, "ORA-01918 ORA-01917", 0, ""},
		{"tablespace", 5, "ORA-01917", fault.NotFound, "ORA-00959"},
		{"exists", 5, "", fault.Exists, "ORA-39151"},
		{"exists-type", 5, "", fault.Exists, "ORA-31684"},
		{"version", 1, "", fault.Unsupported, "ORA-39142"},
		{"no-space", 1, "", fault.NoSpace, "ORA-01652"},
		{"whole", 1, "", fault.Internal, "impdp ended with 1"},
	} {
		t.Run(fmt.Sprint(test.transcript, test.code, test.tolerate), func(t *testing.T) {
			t.Parallel()
			o := newTranscripts(t)
			o.say("impdp", test.transcript, test.code)
			err := o.server(t, map[string]string{"tolerate": test.tolerate}).Restore(t.Context(), restore)
			if test.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if fault.KindOf(err) != test.kind || !strings.Contains(fmt.Sprint(err), test.text) || strings.Contains(fmt.Sprint(err), "PLANTEDHASH") {
				t.Errorf("%v: %v", fault.KindOf(err), err)
			}
		})
	}
}

func TestOracleTranscriptTarget(t *testing.T) {
	t.Parallel()
	restore := oracleDump(t)
	for name, test := range map[string]struct {
		pattern, answer string
		facts           map[string]string
		kind            fault.Kind
		text            string
	}{
		"fit":           {"nothing", "", nil, 0, ""},
		"exists":        {"from dba_objects o where", "problem\texists\tschema HR\tit holds 7 objects\n", nil, fault.Exists, "schema HR"},
		"older":         {"select version from v$instance;", "18.0.0.0.0\n", nil, fault.Unsupported, "18.0.0.0.0"},
		"newer":         {"select version from v$instance;", "23.0.0.0.0\n", nil, 0, ""},
		"character set": {"select value from nls_database_parameters", "WE8ISO8859P15\n", nil, fault.Unsupported, "WE8ISO8859P15"},
		"no directory":  {"select directory_path from", "", nil, fault.NotFound, "DATA_PUMP_DIR"},
		"no space":      {"nothing", "", map[string]string{"bytes.01": "4611686018427387904"}, fault.NoSpace, "4611686018427387"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newTranscripts(t)
			o.answer(test.pattern, test.answer)
			server, config := o.server(t, nil), restore
			config.Facts = maps.Clone(restore.Facts)
			maps.Copy(config.Facts, test.facts)
			problems, err := server.CheckTarget(t.Context(), config)
			refused := server.Refused("check", problems)
			if err != nil || (refused != nil) != (test.text != "") || refused != nil && (fault.KindOf(refused) != test.kind || !strings.Contains(refused.Error(), test.text)) {
				t.Error(problems, err)
			}
			if refused == nil {
				return
			}
			if err := server.Restore(t.Context(), config); fault.KindOf(err) != test.kind || len(o.asked("impdp")) > 0 || len(o.left("directory")) > 0 {
				t.Errorf("a restore: %v", err)
			}
		})
	}
}

// TestOracleTranscriptMarks: what another try of the task has made is asked for by its token, once there are marks.
func TestOracleTranscriptMarks(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	o.answer("select count(*) from user_tables where table_name = 'MUSTER_RESTORE';", "1\n")
	if _, err := o.server(t, nil).CheckTarget(t.Context(), oracleDump(t)); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, text := range o.asked("sqlplus") {
		if strings.Contains(text, "from dba_objects o where") && strings.Contains(text, "m.token = '"+oracleToken(t)+"' and m.name = o.owner") {
			asked++
		}
	}
	if asked != 2 {
		t.Errorf("%d schemas were looked up among the marks", asked)
	}
}

// TestOracleTranscriptCutOff: a stream that ends too early is not imported.
func TestOracleTranscriptCutOff(t *testing.T) {
	t.Parallel()
	for mode, bytesLeft := range map[string]int{"logical": 10, "physical": 3 * 1024} { // three whole files of the archive
		store := newRepository(t)
		backup, err := oracleBackup(t, newTranscripts(t).server(t, nil), store, mode)
		if err != nil {
			t.Fatal(err)
		}
		restore, o := restoreOf(store, backup), newTranscripts(t)
		whole := restore.Open
		restore.Open = func(ctx context.Context, part database.Part) (io.ReadCloser, error) {
			from, err := whole(ctx, part)
			if err != nil {
				return nil, err
			}
			content, err := io.ReadAll(from)
			return io.NopCloser(bytes.NewReader(content[:min(bytesLeft, len(content))])), errors.Join(err, from.Close())
		}
		err = o.server(t, nil).Restore(t.Context(), restore)
		if fault.KindOf(err) != fault.Corrupt || len(o.asked("impdp")) > 0 || len(o.asked("rman")) > 0 {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

func TestOracleTranscriptCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode, pattern, answer string
		kind                  fault.Kind
		text                  string
	}{
		"no archive log":      {"physical", "'instance ' || instance_name", "problem\tunsupported\tlog mode NOARCHIVELOG\tit is off\n", fault.Unsupported, "NOARCHIVELOG"},
		"logical no space":    {"logical", "from dba_segments", "4611686018427387904\n", fault.NoSpace, "4611686018427387904"},
		"physical no space":   {"physical", "from dba_segments", "4611686018427387904\n", fault.NoSpace, "4611686018427387904"},
		"no directory":        {"logical", "select directory_path from", "", fault.NotFound, "DATA_PUMP_DIR"},
		"directory forbidden": {"logical", "utl_file.fopen", "problem\tdenied\tdirectory object DATA_PUMP_DIR\tORA-29289: directory access denied\n", fault.Denied, "ORA-29289"},
		"no role":             {"logical", "from session_roles where role =", "problem\tdenied\taccount BACKUP\tit lacks the role DATAPUMP_EXP_FULL_DATABASE\n", fault.Denied, "DATAPUMP_EXP_FULL_DATABASE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newTranscripts(t)
			server := o.server(t, nil)
			problems, err := server.Check(t.Context(), test.mode)
			if err != nil || server.Refused("check", problems) != nil {
				t.Fatal("without: ", problems, err)
			}
			o.answer(test.pattern, test.answer)
			problems, err = server.Check(t.Context(), test.mode)
			if refused := server.Refused("check", problems); err != nil || refused == nil || fault.KindOf(refused) != test.kind || !strings.Contains(refused.Error(), test.text) {
				t.Error(problems, err)
			}
		})
	}
}

// TestOracleTranscriptAsks: what the server is asked is what finds the trouble; a transcript can't tell.
func TestOracleTranscriptAsks(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	for _, mode := range []string{"logical", "physical"} {
		if _, err := o.server(t, nil).Check(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
	}
	asked := strings.Join(o.asked("sqlplus"), "\n")
	for _, want := range []string{"from v$database where log_mode <> 'ARCHIVELOG'", "where role = 'DATAPUMP_EXP_FULL_DATABASE'", "'FLASHBACK ANY TABLE'", "from v$parameter where name = 'undo_retention'", "connect / as sysdba\n"} {
		if !strings.Contains(asked, want) {
			t.Errorf("nothing asks %q", want)
		}
	}
}

func TestOracleTranscriptLogon(t *testing.T) {
	t.Parallel()
	for text, kind := range map[string]fault.Kind{
		"ORA-01017: invalid username/password; logon denied":                                         fault.Denied,
		"ORA-12541: TNS:no listener":                                                                 fault.Transient,
		"ORA-12514: TNS:listener does not currently know of service requested in connect descriptor": fault.Transient,
		"ORA-12170: TNS:Connect timeout occurred":                                                    fault.Transient,
		"ORA-12537: TNS:connection closed":                                                           fault.Transient,
		"ORA-12154: TNS:could not resolve the connect identifier specified":                          fault.Invalid,
		"ORA-01031: insufficient privileges":                                                         fault.Denied,
	} {
		o := newTranscripts(t)
		o.answer("connect backup", "ERROR:\n"+text+"\n")
		_, err := o.server(t, nil).Check(t.Context(), "")
		if fault.KindOf(err) != kind || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v: %v", text, fault.KindOf(err), err)
		}
	}
}

func TestOracleTranscriptQuery(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	rows, err := o.server(t, nil).Query(t.Context(), "HR", "select sum(salary) as sum from employees;\n")
	if err != nil || fmt.Sprint(rows) != "[map[NAME:König SUM:1000000] map[NAME:<nil> SUM:1]]" {
		t.Error(rows, err)
	}
	asked := o.asked("sqlplus")
	if len(asked) != 1 || !strings.Contains(asked[0], "alter session set current_schema = \"HR\";\n") || !strings.Contains(asked[0], "from (\nselect sum(salary) as sum from employees\n)\n/\n") {
		t.Errorf("it was asked %q", asked)
	}
	o.answer("json_object(*", `{"A":`+"\nSP2-0552: Bind variable \"X\" not declared.\n")
	if _, err := o.server(t, nil).Query(t.Context(), "", "select :x from dual"); !strings.Contains(fmt.Sprint(err), "SP2-0552") {
		t.Error(err)
	}
}

func TestOracleIsDiscovered(t *testing.T) {
	t.Parallel()
	engines, err := database.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for image, is := range map[string]bool{
		"container-registry.oracle.com/database/enterprise:21.3.0.0": true, "container-registry.oracle.com/database/free:latest": true, "container-registry.oracle.com/database/express:21.3.0-xe": true,
		"gvenzl/oracle-xe:21-slim": true, "docker.io/gvenzl/oracle-free:23": true, "oracle/database:19.3.0-ee": true, "oraclelinux:8": false, "oracle-db-exporter:1": false, "enterprise-portal:1": false,
	} {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "erp", Name: "db"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}}}
		found := database.Discover(engines, cluster.Workloads{Pods: []corev1.Pod{pod}}, nil)
		if (len(found) == 1 && found[0].Engine == "oracle") != is {
			t.Errorf("%s: %+v", image, found)
		}
	}
}
