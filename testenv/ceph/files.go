package ceph

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// keys are the users that the monitor knows from the start.
var keys = []struct {
	name string
	caps map[string]string
}{
	{"mon.", map[string]string{"mon": "allow *"}},
	{"client.admin", map[string]string{"mon": "allow *", "osd": "allow *", "mds": "allow *", "mgr": "allow *"}},
	{"mgr.x", map[string]string{"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"}},
	{"osd.0", map[string]string{"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"}},
	{"mds.a", map[string]string{"mon": "allow profile mds", "osd": "allow *", "mds": "allow *", "mgr": "allow profile mds"}},
}

// files makes what the daemons start with.
func (c *Cluster) files(ctx context.Context) error {
	for _, folder := range []string{"mon", "mgr", "osd", "mds", "run", "log", "crash"} {
		if err := os.MkdirAll(c.path(folder), 0o700); err != nil {
			return err
		}
	}
	var err error
	if c.FSID, err = uuid(); err != nil {
		return err
	}
	port := "3300"
	if c.config.Netns == "" {
		if port, err = freePort(c.config.Address); err != nil {
			return err
		}
	}
	c.MonHost = "v2:" + net.JoinHostPort(c.config.Address, port)
	if err := os.WriteFile(c.ConfigFile, []byte(c.text()), 0o600); err != nil {
		return err
	}
	if err := c.keyring(ctx); err != nil {
		return err
	}
	if _, err := c.exec(ctx, "", "monmaptool", "--create", "--addv", "a", "["+c.MonHost+"]", "--fsid", c.FSID, c.path("monmap")); err != nil {
		return err
	}
	_, err = c.exec(ctx, "", "ceph-mon", "--mkfs", "-i", "a", "--monmap", c.path("monmap"), "--keyring", c.path("keyring"))
	return err
}

func (c *Cluster) keyring(ctx context.Context) error {
	for i, key := range keys {
		args := []string{c.path("keyring"), "--gen-key", "-n", key.name}
		if i == 0 {
			args = append(args, "--create-keyring")
		}
		for service, allowed := range key.caps {
			args = append(args, "--cap", service, allowed)
		}
		if _, err := c.exec(ctx, "", "ceph-authtool", args...); err != nil {
			return err
		}
	}
	return nil
}

// text is ceph.conf. One copy of everything, little memory, and quick to start.
func (c *Cluster) text() string {
	options := map[string]string{
		"fsid": c.FSID, "mon_host": c.MonHost, "mon_initial_members": "a", "public_addr": c.config.Address,
		"auth_cluster_required": "cephx", "auth_service_required": "cephx", "auth_client_required": "cephx",
		"auth_allow_insecure_global_id_reclaim": "false",
		"run_dir":                               c.path("run"), "admin_socket": c.path("run/$cluster-$name.$pid.asok"), "pid_file": "",
		"log_file": c.path("log/$name.log"), "keyring": c.path("keyring"), "crash_dir": c.path("crash"),
		"mon_data": c.path("mon"), "mgr_data": c.path("mgr"), "osd_data": c.path("osd"), "mds_data": c.path("mds"),
		"osd_pool_default_size": "1", "osd_pool_default_min_size": "1", "osd_pool_default_pg_autoscale_mode": "off",
		"osd_crush_chooseleaf_type": "0", "mon_allow_pool_size_one": "true", "mon_allow_pool_delete": "true",
		"mon_warn_on_pool_no_redundancy": "false", "mon_data_avail_warn": "1", "mon_data_avail_crit": "1",
		"paxos_propose_interval": "0.05", "mon_mgr_beacon_grace": "600", "mgr_tick_period": "1", "mgr_stats_period": "1",
		"mgr_pool": "false", "mgr_initial_modules": "", "mgr_disabled_modules": disabledModules,
		"osd_objectstore": "bluestore", "bluestore_block_size": strconv.FormatInt(c.config.Size, 10),
		"bluestore_cache_autotune": "false", "bluestore_cache_size": "134217728", "osd_class_update_on_start": "false",
		"osd_mclock_override_recovery_settings": "false", "osd_op_queue": "wpq",
		"osd_client_watch_timeout": "6", // after so many seconds a dead client uses an image no more; usual are 30
	}
	maps.Copy(options, c.config.Options)
	var text strings.Builder
	text.WriteString("[global]\n")
	for _, name := range slices.Sorted(maps.Keys(options)) {
		fmt.Fprintf(&text, "%s = %s\n", name, options[name])
	}
	// The keyring of a client is its own affair.
	return text.String() + "[client]\nlog_file =\nadmin_socket =\n"
}

// disabledModules are the manager's modules that nothing here needs: it starts in half the time without.
const disabledModules = "alerts,balancer,cephadm,cli_api,crash,dashboard,devicehealth,diskprediction_local,feedback,hello," +
	"influx,insights,iostat,k8sevents,localpool,mds_autoscaler,mirroring,nfs,orchestrator,osd_perf_query,osd_support,pg_autoscaler," +
	"progress,prometheus,restful,rook,selftest,snap_schedule,stats,telegraf,telemetry,test_orchestrator,zabbix"

// serves reads the cluster's status.
func (c *Cluster) serves(status string) (bool, error) {
	var s struct {
		OSD struct {
			Up int `json:"num_up_osds"`
		} `json:"osdmap"`
		Manager struct {
			Available bool `json:"available"`
		} `json:"mgrmap"`
		FS struct {
			ByRank []struct {
				Status string `json:"status"`
			} `json:"by_rank"`
		} `json:"fsmap"`
		PGs struct {
			Count  int `json:"num_pgs"`
			States []struct {
				Name  string `json:"state_name"`
				Count int    `json:"count"`
			} `json:"pgs_by_state"`
		} `json:"pgmap"`
	}
	if err := json.Unmarshal([]byte(status), &s); err != nil {
		return false, err
	}
	if c.runs(OSD) && s.OSD.Up == 0 || c.runs(Manager) && (!s.Manager.Available || s.PGs.Count == 0) {
		return false, nil
	}
	for _, state := range s.PGs.States {
		if state.Name != "active+clean" && c.runs(OSD) {
			return false, nil
		}
	}
	return !c.runs(Metadata) || len(s.FS.ByRank) == 1 && s.FS.ByRank[0].Status == "up:active", nil
}

func (c *Cluster) path(name string) string { return filepath.Join(c.config.Dir, name) }
