package main

import "fmt"

// stockCreate makes a repository of the stock kopia command below $DIR, cut and compressed as Muster's are.
const stockCreate = `mkdir -p "$DIR/blobs"
"$KOPIA" repository create filesystem --path "$DIR/blobs" --password bench --object-splitter DYNAMIC-1M-BUZHASH
"$KOPIA" policy set --global --compression zstd-fastest`

// stockScript lets a shell script use the kopia command ($KOPIA) with a configuration of its own below dir.
func stockScript(kopia, dir, script string) string {
	return fmt.Sprintf("export DIR=%q KOPIA=%q KOPIA_CONFIG_PATH=%q KOPIA_CACHE_DIRECTORY=%q KOPIA_PASSWORD=bench KOPIA_CHECK_FOR_UPDATES=false HOME=%q KOPIA_LOG_DIR=%q\nset -o pipefail\n",
		dir, kopia, dir+"/config", dir+"/cache", dir, dir+"/log") + "{ " + script + "\n} 2>>" + dir + ".log"
}
