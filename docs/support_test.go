// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/events"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/libwasmshim/libwasmshim/test/generated"
)

var update = flag.Bool("update", false, "write the tables in support.md anew")

// row is what is supported of one thing, or of several parts of it.
type row struct {
	what         string
	parts        string // their names, after what and a dot; "" is that it has none
	native, wasm string // "" is asRunc
	tests        string
}

const (
	asRunc = "as runc"
	yes    = "yes"
	onSpec = "TestSpecLikeRunc"
	hook   = "path args env timeout"
	number = "containerID hostID size"
	hosts  = "as runc: refused where the host has none"
)

var methods = []row{
	{"State", "", "", "", "TestContract TestLikeRunc TestExecStates"},
	{"Create", "", "as runc; not of a checkpoint", "yes; not of a checkpoint", "TestContract TestLikeRunc TestBadInputCreate"},
	{"Start", "", "", "", "TestContract TestLikeRunc TestExecStates"},
	{"Delete", "", "", "", "TestContract TestLikeRunc TestLivesTwoDeletes"},
	{"Pids", "", "", "", "TestContract TestExecEvents"},
	{"Pause", "", "", "", "TestContract TestPause TestPauseStates"},
	{"Resume", "", "", "", "TestContract TestPause TestPauseStates"},
	{"Checkpoint", "", "refused (`Unimplemented`): there is no CRIU", "refused (`Unimplemented`): no engine's state can be saved and restored", "TestPoint5Services"},
	{"Kill", "", "", "as runc; what a guest does not handle ends it", "TestContract TestTrust2EverySignal TestTrust2All TestTrust2States"},
	{"Exec", "", "as runc, and guests", "yes: native programs and guests", "TestContract TestExecKinds TestExecLikeRunc TestExecLayers"},
	{"ResizePty", "", "", "", "TestContract TestTerminalSize"},
	{"CloseIO", "", "", "", "TestContract TestExecInput"},
	{"Update", "", "", "", "TestContract TestUpdate TestUpdateRefused"},
	{"Wait", "", "", "", "TestContract TestLikeRunc"},
	{"Stats", "", "", "", "TestContract TestStats"},
	{"Connect", "", "", "", "TestLikeRunc TestPoint5Services"},
	{"Shutdown", "", "", "", "TestContract TestLikeRunc TestShutdownHoldsUpNobody"},
}

var sandboxRows = []row{
	{"CreateSandbox", "", "yes", "yes", "TestSandboxCalls TestSandboxRefusals TestSandboxFilesComeBack"},
	{"StartSandbox", "", "yes", "yes", "TestSandboxCalls TestSandboxWaiter TestSandboxPods TestSandboxes"},
	{"Platform", "", "yes", "yes", "TestSandboxCalls"},
	{"StopSandbox", "", "yes", "yes", "TestSandboxCalls"},
	{"WaitSandbox", "", "yes", "yes", "TestSandboxCalls TestSandboxFirstProcess"},
	{"SandboxStatus", "", "yes", "yes", "TestSandboxCalls TestSandboxRestart TestKubeletSandboxes"},
	{"PingSandbox", "", "yes", "yes", "TestSandboxCalls"},
	{"ShutdownSandbox", "", "yes", "yes", "TestSandboxCalls TestSandboxDelete TestSandboxPodKilled"},
	{"SandboxMetrics", "", "yes: time and memory of the pod's cgroup", "the same", "TestSandboxCalls TestSandboxPods"},
	{"UpdateSandbox", "", "refused (`Unimplemented`), which containerd takes for nothing to do", "the same", "TestSandboxCalls"},
}

var eventRows = []row{
	{"TaskCreate", "", "", "", "TestContract TestPause"},
	{"TaskStart", "", "", "", "TestContract TestPause"},
	{"TaskDelete", "", "", "", "TestContract TestExecEvents"},
	{"TaskExit", "", "", "as runc; a trap is 134, a guest that cannot be loaded 126, an engine that fails 125", "TestContract TestExecEvents TestPoint7ExitCodes"},
	{"TaskOOM", "", "", "as runc; a compiler's is none of the container's", "TestContract TestOOM TestOOMOfGrandchild TestOOMIsToldLate"},
	{"TaskExecAdded", "", "", "", "TestContract TestExecEvents"},
	{"TaskExecStarted", "", "", "", "TestContract TestExecEvents"},
	{"TaskPaused", "", "", "", "TestContract TestPause"},
	{"TaskResumed", "", "", "", "TestContract TestPause"},
	{"TaskIO", "", "never, as runc", "never, as runc", "TestContract"},
	{"TaskCheckpointed", "", "never: there are no checkpoints", "never: there are no checkpoints", "TestPoint5Services"},
}

var optionRows = []row{
	{"SystemdCgroup", "", "", "", "TestSystemd TestSystemdDriver TestTrust3BadOptions"},
	{"NoPivotRoot", "", "", "", "TestTrust3RuncOptions"},
	{"NoNewKeyring", "", "", "", "TestTrust3RuncOptions"},
	{"ShimCgroup", "", "", "", "TestTrust3RuncOptions"},
	{"daemon", "", yes, yes, "TestNodeDaemon TestNodeDaemonKilled TestNodeDaemonUpgrade TestNodeDaemonLives"},
	{"daemon_pods", "", yes, yes, "TestNodeDaemonPods"},
	{"IoUid", "", "", "", "TestTrust3RuncOptions"},
	{"IoGid", "", "", "", "TestTrust3RuncOptions"},
	{"BinaryName", "", "this shim's own file; any other is refused, as none is executed", "the same", "TestBinaryName TestTrust3RuncOptions TestTrust3BadOptions"},
	{"ConfigPath", "", yes, yes, "TestTrust3ConfigPath"},
	{"log_level", "", yes, yes, "TestTrust5EngineMessages"},
	{"guest_proc", "", "as runc in every case", yes, "TestTrust8Modes TestTrust8Native"},
	{"compile_timeout", "", "nothing to compile", yes, "TestImage2Misbehaving TestCompilersStarved"},
	{"compile_memory", "", "nothing to compile", yes, "TestImage2Misbehaving TestCompilersSize"},
	{"compilers", "", "nothing to compile", yes, "TestCompilersPlace"},
	{"compile_cgroup", "", "nothing to compile", yes, "TestCompilersPlace TestCompilerScope"},
	{"allow_annotations", "", yes, yes, "TestTrust3TwoClasses TestTrust3BadOptions"},
	{"engine", "", "checked, and of no use", "yes: the engine's own", "TestTrust3EngineOptions"},
	{"Root", "", "refused: the state is in the bundle", "the same", "TestTrust3BadOptions TestParseErrors"},
	{"CriuPath", "", "refused: there are no checkpoints", "the same", "TestParseErrors"},
	{"CriuImagePath", "", "refused: there are no checkpoints", "the same", "TestParseErrors"},
	{"CriuWorkPath", "", "refused: there are no checkpoints", "the same", "TestParseErrors"},
	{"TaskApiAddress", "", "in runc's message, from containerd; refused in a table or a file", "the same", "TestParse TestParseErrors"},
	{"TaskApiVersion", "", "in runc's message, from containerd; refused in a table or a file", "the same", "TestParse TestParseErrors"},
}

var specRows = []row{
	{"ociVersion", "", "as runc: not looked at", "as runc: not looked at", onSpec},
	{"process.terminal", "", "", "as runc; the guest sees a terminal", "TestTerminalSpec TestTerminalOfGuest"},
	{"process.consoleSize", "height width", "", "", "TestTerminalSize"},
	{"process.user", "uid gid umask additionalGids", "", "", onSpec},
	{"process.args", "", "", "the first is the guest, or the name of the image's layers", "TestTrust1ArgumentsAndEnvironment TestExecKinds TestResolve"},
	{"process.env", "", "", "as runc, and `PWD`", "TestEnvironmentLikeRunc TestSpecLikeRunc TestTrust4Run"},
	{"process.cwd", "", "", "as runc; the guest has it as `PWD`", "TestSpecLikeRunc TestTrust4Run"},
	{"process.capabilities", "bounding effective inheritable permitted ambient", "", "", onSpec},
	{"process.rlimits", "type hard soft", "", "as runc; refused where the engine could not start under it", "TestSpecLikeRunc TestGuardRlimits"},
	{"process.noNewPrivileges", "", "", "", onSpec},
	{"process.apparmorProfile", "", hosts, hosts, onSpec + " TestAppArmorNamesNoCode TestAppArmorKill"},
	{"process.oomScoreAdj", "", "", "", onSpec},
	{"process.scheduler", "policy nice priority flags runtime deadline period", "", "as runc; an engine that needs threads needs `SCHED_FLAG_RESET_ON_FORK` with `SCHED_DEADLINE`", onSpec},
	{"process.selinuxLabel", "", hosts, hosts, onSpec},
	{"process.ioPriority", "class priority", "", "", onSpec},
	{"process.execCPUAffinity", "initial final", "", "", onSpec},
	{"root", "path readonly", "", "as runc; a read-only one makes `guest_proc` hide /proc", "TestSpecLikeRunc TestTrust1ReadonlyRoot TestTrust8Modes"},
	{"hostname", "", "", "", onSpec},
	{"domainname", "", "", "", onSpec},
	{"mounts", "destination type source options", "", "as runc; /proc is read-only or hidden, see `guest_proc`", "TestSpecLikeRunc TestTrust1BindMounts TestTrust8Proc"},
	{"mounts.uidMappings", number, "", "", onSpec},
	{"mounts.gidMappings", number, "", "", onSpec},
	{"hooks.prestart", hook, "", "", "TestHooksLikeRunc TestTrust1FailingHooks"},
	{"hooks.createRuntime", hook, "", "", "TestHooksLikeRunc TestTrust1FailingHooks TestSpecLikeRunc"},
	{"hooks.createContainer", hook, "", "", "TestHooksLikeRunc TestTrust1FailingHooks"},
	{"hooks.startContainer", hook, "", "", "TestHooksLikeRunc TestTrust1FailingHooks"},
	{"hooks.poststart", hook, "", "", "TestHooksLikeRunc TestTrust1FailingHooks"},
	{"hooks.poststop", hook, "", "", "TestHooksLikeRunc TestTrust1FailingHooks"},
	{"annotations", "", "as runc; an engine's option has to be allowed", "as runc; an engine's options, where allowed", "TestSpecLikeRunc TestTrust3EngineOptions"},
	{"linux.uidMappings", number, "", "", onSpec},
	{"linux.gidMappings", number, "", "", onSpec},
	{"linux.sysctl", "", "", "", onSpec},
	{"linux.resources.devices", "allow type major minor access", "", "", onSpec},
	{"linux.resources.memory", "limit reservation swap swappiness disableOOMKiller useHierarchy checkBeforeUpdate", "", "as runc; the engine takes its part", "TestSpecLikeRunc TestGuardMemory TestGuardSmallMemory"},
	{"linux.resources.memory", "kernel kernelTCP", "as runc: ignored", "as runc: ignored", onSpec},
	{"linux.resources.cpu", "shares quota burst period realtimeRuntime realtimePeriod cpus mems idle", "", "", onSpec},
	{"linux.resources.pids", "limit", "", "as runc; the engine's threads count", "TestSpecLikeRunc TestGuardProcesses"},
	{"linux.resources.blockIO", "weight leafWeight", hosts, hosts, onSpec},
	{"linux.resources.blockIO.weightDevice", "major minor weight leafWeight", hosts, hosts, onSpec},
	{"linux.resources.blockIO.throttleReadBpsDevice", "major minor rate", "", "", onSpec},
	{"linux.resources.blockIO.throttleWriteBpsDevice", "major minor rate", "", "", onSpec},
	{"linux.resources.blockIO.throttleReadIOPSDevice", "major minor rate", "", "", onSpec},
	{"linux.resources.blockIO.throttleWriteIOPSDevice", "major minor rate", "", "", onSpec},
	{"linux.resources.hugepageLimits", "pageSize limit", hosts, hosts, onSpec},
	{"linux.resources.network", "classID", hosts, hosts, onSpec},
	{"linux.resources.network.priorities", "name priority", hosts, hosts, onSpec},
	{"linux.resources.rdma", "hcaHandles hcaObjects", hosts, hosts, onSpec},
	{"linux.resources.unified", "", "as runc: refused with cgroup v1", "as runc: refused with cgroup v1", onSpec + " TestUnifiedResources"},
	{"linux.cgroupsPath", "", "as runc; the root cgroup is refused with a code", "the same", "TestSpecLikeRunc TestCgroupsPathIsAbsolute"},
	{"linux.namespaces", "type path", "as runc; a mount namespace has to be among them", "the same", "TestSpecLikeRunc TestValidate"},
	{"linux.devices", "path type major minor fileMode uid gid", "", "", onSpec},
	{"linux.netDevices", "name", "", "", onSpec},
	{"linux.seccomp", "defaultAction defaultErrnoRet architectures flags", "", "as runc; the engine's own system calls count", onSpec},
	{"linux.seccomp", "listenerPath listenerMetadata", "as runc; refused where nobody listens", "the same", onSpec},
	{"linux.seccomp.syscalls", "names action errnoRet", "", "as runc; the engine's own system calls count", onSpec},
	{"linux.seccomp.syscalls.args", "index value valueTwo op", "", "", onSpec},
	{"linux.rootfsPropagation", "", "", "", onSpec},
	{"linux.maskedPaths", "", "", "", onSpec},
	{"linux.readonlyPaths", "", "", "", onSpec},
	{"linux.mountLabel", "", hosts, hosts, onSpec},
	{"linux.intelRdt", "closID schemata l3CacheSchema memBwSchema enableMonitoring", hosts, hosts, onSpec},
	{"linux.memoryPolicy", "mode nodes flags", "", "", onSpec},
	{"linux.personality", "domain", "", "", onSpec},
	{"linux.personality", "flags", "as runc: ignored", "as runc: ignored", onSpec},
	{"linux.timeOffsets", "secs nanosecs", "", "", onSpec},
}

// hostRow is a kind of host, with what shows that the shim is right on it: the machine
// of the developer for most tests, and boots of that of make test-vm.
type hostRow struct {
	what, where, tests string
}

const (
	inVM    = "`make test-vm`"
	nowhere = "nowhere yet"
)

var hostRows = []hostRow{
	{"cgroup v1, cgroupfs driver", "`make test`, where the host has it", "TestContract TestTrust7Smoke TestUpdate TestStats"},
	{"cgroup v1, systemd driver, systemd as PID 1", inVM + ", third boot", "TestBoot"},
	{"cgroup v2, cgroupfs driver", inVM, "TestSmoke TestLimits TestNoPath TestConfined TestDevices TestPod TestDaemonKilled TestDaemonKilledInCreate TestDaemonKilledInCompile TestContainerdKilled TestSandboxCgroup TestUnifiedResources"},
	{"cgroup v2, systemd driver, systemd as PID 1", inVM, "TestSmoke TestContract TestLimits TestNoPath TestConfined TestDevices TestPod TestDaemonKilled TestDaemonKilledInCreate TestDaemonKilledInCompile TestContainerdKilled TestSandboxCgroup TestSystemdRestarts TestScopeStopped TestCompilerScope TestBusConnections TestZNoUnitFailed"},
	{"cgroup v2 without the controllers memory and pids", inVM + ", second boot", "TestBoot"},
	{"AppArmor", inVM, "TestConfined TestAppArmorNamesNoCode TestAppArmorDeniesFile TestAppArmorKill"},
	{"SELinux, with a module of ours, see [operators.md](operators.md)", inVM + ", fourth boot, with Debian's policy", "TestSELinux"},
	{"rootless containerd, cgroup v2: delegated, of the user's systemd, or none", inVM, "TestRootless TestUserCompiler TestUserPlaces TestUserLimits TestUserOOMScore TestUserDaemonKilled TestUserCtr TestUserDoctor"},
}

func (r hostRow) markdown() string {
	tests := "-"
	if r.tests != "" {
		tests = quoted(r.tests)
	}
	return fmt.Sprintf("| %s | %s | %s |\n", r.what, r.where, tests)
}

// names are the things that a row is of.
func (r row) names() (all []string) {
	if r.parts == "" {
		return []string{r.what}
	}
	for part := range strings.FieldsSeq(r.parts) {
		all = append(all, r.what+"."+part)
	}
	return all
}

// quoted makes code of words.
func quoted(words string) string {
	return "`" + strings.Join(strings.Fields(words), "`, `") + "`"
}

func (r row) markdown() string {
	what := "`" + r.what + "`"
	if r.parts != "" {
		what += ": " + quoted(r.parts)
	}
	return fmt.Sprintf("| %s | %s | %s | %s |\n", what, orAsRunc(r.native), orAsRunc(r.wasm), quoted(r.tests))
}

func orAsRunc(said string) string {
	if said == "" {
		return asRunc
	}
	return said
}

// fields are the names of a spec's fields that are of Linux, down to what has none.
func fields(t reflect.Type, name string) (all []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return []string{name}
	}
	for _, f := range reflect.VisibleFields(t) {
		if p := f.Tag.Get("platform"); f.Anonymous || p != "" && !slices.Contains(strings.Split(p, ","), "linux") {
			continue
		}
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		all = append(all, fields(f.Type, strings.TrimPrefix(name+"."+key, "."))...)
	}
	return all
}

// optionKeys are the keys that the shim has an answer to, and the fields of runc's
// message.
func optionKeys(t *testing.T) []string {
	all := []string{"ConfigPath", "BinaryName"}
	for file, name := range map[string]string{"toml.go": "setters", "options.go": "whyRefused"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), "../shim/internal/options/"+file, nil, 0)
		require.NoError(t, err)
		object := parsed.Scope.Lookup(name) //nolint:staticcheck // one file is all that is looked at
		require.NotNil(t, object, "%s in %s", name, file)
		for _, e := range object.Decl.(*ast.ValueSpec).Values[0].(*ast.CompositeLit).Elts {
			key, err := strconv.Unquote(e.(*ast.KeyValueExpr).Key.(*ast.BasicLit).Value)
			require.NoError(t, err)
			all = append(all, key)
		}
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[options.Options]()) {
		if f.Tag.Get("protobuf") != "" {
			all = append(all, f.Name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// messages are the names of a file's messages.
func messages(file protoreflect.FileDescriptor) (all []string) {
	for i := range file.Messages().Len() {
		all = append(all, string(file.Messages().Get(i).Name()))
	}
	return all
}

// testNames are the tests of this tree.
func testNames(t *testing.T) map[string]bool {
	found := map[string]bool{}
	for _, dir := range []string{"../shim", "../cabi", "../test"} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
				found[string(m[1])] = true
			}
			return err
		}))
	}
	return found
}

// support.md has a row for all that can be asked of a shim, and a test for each.
func TestSupport(t *testing.T) {
	var service []string
	for m := range reflect.TypeFor[taskapi.TTRPCTaskService]().Methods() {
		service = append(service, m.Name)
	}
	var sandboxes []string
	for m := range reflect.TypeFor[sandboxapi.TTRPCSandboxService]().Methods() {
		sandboxes = append(sandboxes, m.Name)
	}
	tests := testNames(t)
	var tables strings.Builder
	for _, table := range []struct {
		title string
		rows  []row
		all   []string // that there has to be a row of
	}{
		{"Methods of the Task service", methods, service},
		{"Methods of the Sandbox service", sandboxRows, sandboxes},
		{"Events", eventRows, messages(events.File_events_task_proto)},
		{"Runtime options", optionRows, optionKeys(t)},
		{"Fields of the OCI spec", specRows, fields(reflect.TypeFor[specs.Spec](), "")},
	} {
		fmt.Fprintf(&tables, "\n## %s\n\n| | native | Wasm | shown by |\n| --- | --- | --- | --- |\n", table.title)
		var have []string
		for _, r := range table.rows {
			have = append(have, r.names()...)
			tables.WriteString(r.markdown())
			require.NotEmpty(t, strings.Fields(r.tests), r.what)
			for name := range strings.FieldsSeq(r.tests) {
				require.True(t, tests[name], "%s: %s is no test", r.what, name)
			}
		}
		require.ElementsMatch(t, table.all, have, "%s: one row for each, in docs/support_test.go", table.title)
	}

	tables.WriteString("\n## Hosts\n\n| | tested by | shown by |\n| --- | --- | --- |\n")
	for _, r := range hostRows {
		tables.WriteString(r.markdown())
		for name := range strings.FieldsSeq(r.tests) {
			require.True(t, tests[name], "%s: %s is no test", r.what, name)
		}
	}

	generated.Part(t, "support.md", "<!-- tables -->\n", "\n<!-- end -->\n", tables.String(), *update, "go test ./docs -run TestSupport -update")
}
