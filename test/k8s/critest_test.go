// SPDX-License-Identifier: Apache-2.0

// Package k8s tests on private Kubernetes nodes: what a kubelet and critest ask of a
// runtime. `make test-k8s` runs it.
package k8s

import (
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

var update = flag.Bool("update", false, "write the list of what critest passes anew, by a run with runc")

const passedByRunc = "testdata/critest.txt"

// notHere are the tests of critest that no runtime passes here, by parts of their
// names, for reasons that are not the runtime's.
var notHere = []string{
	"benchmark",
	"AppArmor",                             // this kernel may have none
	"public image with digest",             // of the one image that has it
	"should support MaskedPaths",           // masks one of busybox's names: all of them are one file
	"race condition during initialization", // an NRI test that skips itself where it loses a race
	"during the Synchronize call",
	"should return image digest in ContainerStatus mounts",
}

// raced is what containerd answers who removes a container that has just ended by itself,
// in the moment after it has deleted the task and before it has noted that: of whatever
// runtime. One test does that. It is tried again.
const raced = "is still running, to stop first"

// noUsersWithOptions is the test that no runtime but runc's passes that has an options
// table: docs/troubleshooting.md, "failed to get runtime v2 options".
const noUsersWithOptions = "Security Context UserNamespaces when Host idmap mount support is needed runtime should support NamespaceMode_POD"

// TestCritest runs critest on a node. Each test that runc passes has to pass, by its
// name: some skip themselves where something goes wrong, and count as failed.
//
// critest's containers wait in "top", in an image of a shell. In the second run "top"
// is a guest: then all that critest does with a container, but what a container's
// shell itself does, it does with guests, and with execs of native programs in them.
// In the third the pods have no pause containers, and in the fourth one daemon besides.
func TestCritest(t *testing.T) {
	t.Parallel()
	if *update {
		passed, _ := critest(t, newNode(t, setup{version: harness.Containerd24, images: allImages("")}), "runc")
		require.NoError(t, os.WriteFile(passedByRunc, []byte(strings.Join(passed, "\n")+"\n"), 0o644))
		return
	}
	list, err := os.ReadFile(passedByRunc)
	require.NoError(t, err)
	for name, run := range map[string]struct{ kind, handler, not string }{
		"native": {kind: "native", handler: "wasmtime"}, guestTop: {kind: guestTop, handler: "wasmtime"},
		"sandboxes": {kind: guestTop, handler: "sandboxes"}, "node": {kind: guestTop, handler: "node", not: noUsersWithOptions},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, setup{version: harness.Containerd24, images: allImages(run.kind)})
			passed, reasons := critest(t, n, run.handler)
			missing := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(list)), "\n"), func(name string) bool { return slices.Contains(passed, name) || name == run.not })
			text, err := os.ReadFile(filepath.Join(n.Dir, "critest.log"))
			require.NoError(t, err)
			if len(missing) == 1 && strings.Contains(string(text), raced) {
				t.Logf("once more: %s", missing[0])
				focus := regexp.QuoteMeta(strings.TrimSuffix(missing[0], " [Serial]")) // a label, which is not in its text
				if passed, _ := critest(t, n, run.handler, "--ginkgo.focus", focus); slices.Contains(passed, missing[0]) {
					missing = nil
				}
			}
			for i, name := range missing {
				if i == 10 {
					t.Errorf("and %d more", len(missing)-i)
					break
				}
				t.Errorf("not passed: %s: %s", name, reasons[name])
			}
		})
	}
}

// critest runs it with a handler, and says which tests have passed, and why others failed.
func critest(t *testing.T, n *node, handler string, more ...string) (passed []string, reasons map[string]string) {
	t.Helper()
	endpoint := "unix://" + address
	report := n.Dir + "/junit.xml"
	// Its exit status says that a test has failed, and not that another is missing.
	text, err := n.run(20*time.Minute, append([]string{
		"critest", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--runtime-handler", handler,
		"--nri-socket", "/run/nri/nri.sock", "--ginkgo.no-color", "--ginkgo.seed=1", "--ginkgo.timeout=20m", "--ginkgo.junit-report", report,
		"--ginkgo.skip", strings.Join(notHere, "|"),
	}, more...)...)
	n.write("critest.log", text)
	file, readErr := os.ReadFile(report)
	require.NoError(t, readErr, "%v", err)
	var results struct {
		Suites []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Status  string `xml:"status,attr"`
				Failure struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	require.NoError(t, xml.Unmarshal(file, &results))
	reasons = map[string]string{}
	for _, suite := range results.Suites {
		for _, c := range suite.Cases {
			switch name, ok := strings.CutPrefix(c.Name, "[It] [k8s.io] "); {
			case !ok:
			case c.Status == "passed":
				passed = append(passed, name)
			default:
				reasons[name] = c.Status + " " + c.Failure.Message
			}
		}
	}
	slices.Sort(passed)
	t.Logf("%d have passed", len(passed))
	return passed, reasons
}
