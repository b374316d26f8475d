package database_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/musterdr/muster/providers/fault"
)

func TestOracleTranscriptPhysical(t *testing.T) {
	t.Parallel()
	source, target := newTranscripts(t), newTranscripts(t)
	store := newRepository(t)
	backup, err := oracleBackup(t, source.server(t, map[string]string{"parallel": "2"}), store, "physical")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"scn": "5715397", "to": "5716000", "dbid": "1234567890", "resetlogs": "1920977", "database": "ORCL"} {
		if backup.Facts[name] != want {
			t.Errorf("fact %s is %q", name, backup.Facts[name])
		}
	}
	if left := source.left("rmanfolder"); len(left) > 0 {
		t.Errorf("left in the folder: %q", left)
	}
	mark := oracleMark(t)
	work := filepath.Join(source.home, "rmanfolder", mark)
	channels := "allocate channel muster1 device type disk format '" + work + "/%U.bkp';\nallocate channel muster2 device type disk format '" + work + "/%U.bkp';\n"
	oracleAsked(t, source, []string{
		"connect target /\nrun {\n" + channels + "backup as compressed backupset database tag '" + mark + "';\n}\nexit\n",
		"connect target /\nrun {\n" + channels + "backup as compressed backupset archivelog from scn 5715100 tag '" + mark + "';\nbackup current controlfile format '" + work + "/control.bkp' tag '" + mark + "';\n}\nexit\n",
		"connect target /\ndelete noprompt force backup tag '" + mark + "';\nexit\n",
	})

	if err := target.server(t, map[string]string{"parallel": "1"}).Restore(t.Context(), restoreOf(store, backup)); err != nil {
		t.Fatal(err)
	}
	for file, piece := range map[string]string{"011qqt2b_1_1.bkp": "database", "021qqt3c_1_1.bkp": "logs", "control.bkp": "control"} {
		if found := target.read("taken/" + file); found != source.read("pieces/"+piece) {
			t.Errorf("RMAN found %q in %s", found, file)
		}
	}
	if all := target.left("taken"); len(all) != 3 {
		t.Errorf("RMAN found %q", all)
	}
	if left := target.left("rmanfolder"); len(left) > 0 {
		t.Errorf("left in the folder: %q", left)
	}
	work = filepath.Join(target.home, "rmanfolder", mark)
	oracleAsked(t, target, []string{
		"connect target /\nset dbid 1234567890;\nstartup force nomount;\nrestore controlfile from '" + work + "/control.bkp';\nalter database mount;\ncatalog start with '" + work + "/' noprompt;\n" +
			"run {\nallocate channel muster1 device type disk;\nset until scn 5716000;\nrestore database;\nrecover database;\n}\nalter database open resetlogs;\nalter pluggable database all open;\nexit\n",
		"connect target /\ndelete noprompt force backup tag '" + mark + "';\nexit\n",
	})
}

// oracleAsked compares what RMAN was told, in whatever order.
func oracleAsked(t *testing.T, o transcripts, want []string) {
	t.Helper()
	asked := o.asked("rman")
	slices.Sort(asked)
	slices.Sort(want)
	if !slices.Equal(asked, want) {
		t.Errorf("RMAN was told %q, want %q", asked, want)
	}
}

func TestOracleTranscriptRecoveryManager(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		step, transcript string
		kind             fault.Kind
		text             string
	}{
		{"backup", "no-space", fault.NoSpace, "ORA-27072"},
		{"backup", "corrupt", fault.Corrupt, "ORA-19566"},
		{"backup", "no-space, and ends with 0", fault.NoSpace, "ORA-27072"},
		{"backup", "cut-off", fault.Internal, "connected to target"},
		{"logs", "lost-log", fault.NotFound, "RMAN-06059"},
		{"restore", "no-log", fault.NotFound, "RMAN-06054"},
		{"restore", "cut-off", fault.Internal, "connected to target"},
	} {
		t.Run(test.step+" "+test.transcript, func(t *testing.T) {
			t.Parallel()
			o := newTranscripts(t)
			transcript, lenient := strings.CutSuffix(test.transcript, ", and ends with 0")
			if lenient {
				o.write("lenient", "")
			}
			broken := o.read("rman/" + transcript)
			if test.step != "restore" {
				o.write("rman/"+test.step, broken)
			}
			store := newRepository(t)
			backup, err := oracleBackup(t, o.server(t, nil), store, "physical")
			if test.step == "restore" && err == nil {
				o.write("rman/restore", broken)
				err = o.server(t, nil).Restore(t.Context(), restoreOf(store, backup))
			} else if left := o.left("rmanfolder"); len(left) > 0 {
				t.Errorf("left in the folder: %q", left)
			}
			if fault.KindOf(err) != test.kind || !strings.Contains(fmt.Sprint(err), test.text) {
				t.Errorf("%v: %v", fault.KindOf(err), err)
			}
		})
	}
}

// TestOracleTranscriptLogGap: RMAN takes the logs of a range that are there, and ends well.
func TestOracleTranscriptLogGap(t *testing.T) {
	t.Parallel()
	o := newTranscripts(t)
	o.answer("from v$backup_redolog", "gap\n")
	_, err := oracleBackup(t, o.server(t, nil), newRepository(t), "physical")
	if fault.KindOf(err) != fault.NotFound || !strings.Contains(fmt.Sprint(err), "between 5715100 and 5716000") {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	asked := strings.Join(o.asked("sqlplus"), "\n")
	if !strings.Contains(asked, "low <= 5715100 and high >= 5716000 and n = wanted") || !strings.Contains(asked, "p.tag = '"+oracleMark(t)+"'") {
		t.Error("the logs in the backup are not looked at")
	}
}

func TestOracleTranscriptPhysicalTarget(t *testing.T) {
	t.Parallel()
	store := newRepository(t)
	backup, err := oracleBackup(t, newTranscripts(t).server(t, nil), store, "physical")
	if err != nil {
		t.Fatal(err)
	}
	restore := restoreOf(store, backup)
	const ours = "version 19.0.0.0.0\nname orcl\ncontrol @HOME@/README.md\n"
	for name, test := range map[string]struct {
		answer string
		kind   fault.Kind
		text   string
	}{
		"open":          {"status OPEN\n" + ours, fault.Exists, "open"},
		"mounted":       {"status MOUNTED\n" + ours, fault.Exists, "mounted"},
		"control file":  {"status STARTED\n" + ours, fault.Exists, "README.md"},
		"other name":    {"status STARTED\nversion 19.0.0.0.0\nname other\n", fault.Invalid, "db_name other"},
		"other version": {"status STARTED\nversion 21.0.0.0.0\nname orcl\n", fault.Unsupported, "21.0.0.0.0"},
		"down":          {"ERROR at line 1:\nORA-01034: ORACLE not available\n", fault.Invalid, "startup nomount"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newTranscripts(t)
			o.answer("'control ' || value", test.answer)
			err := o.server(t, nil).Restore(t.Context(), restore)
			if fault.KindOf(err) != test.kind || !strings.Contains(fmt.Sprint(err), test.text) || len(o.asked("rman")) > 0 {
				t.Errorf("%v: %v", fault.KindOf(err), err)
			}
			if err := os.Mkdir(filepath.Join(o.home, "rmanfolder", oracleMark(t)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := o.server(t, nil).Restore(t.Context(), restore); err != nil {
				t.Errorf("a try that follows one of its own: %v", err)
			}
		})
	}
}
