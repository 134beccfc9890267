// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

// files are what one layer of an image has.
type files = map[string]harness.File

// guestTop makes of "top", by which critest's containers wait, a guest.
const guestTop = "guest-top"

// standin is the program that has what a static busybox lacks.
var standin = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "wst-standin")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", dir+"/standin", "./standin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build standin: %w\n%s", err, out)
	}
	return os.ReadFile(dir + "/standin")
})

// They are made once for all nodes.
var (
	nativeImages = sync.OnceValues(func() ([][]byte, error) { return images("") })
	guestImages  = sync.OnceValues(func() ([][]byte, error) { return images(guestTop) })
)

// allImages are images of a kind.
func allImages(kind string) func() ([][]byte, error) {
	if kind == guestTop {
		return guestImages
	}
	return nativeImages
}

// images are what the registry of a node has, under the names that critest, the
// kubelet and the tests here pull, whatever the registry they name. They are made of
// what is on this machine. kind may be guestTop.
func images(kind string) ([][]byte, error) {
	cache, err := harness.CacheDir()
	if err != nil {
		return nil, err
	}
	busyboxFile := filepath.Join(cache, "busybox-static/bin/busybox")
	applets, err := exec.Command(busyboxFile, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets (run scripts/deps.sh k8s first): %w", err)
	}
	busybox, err := os.ReadFile(busyboxFile)
	if err != nil {
		return nil, err
	}
	standin, err := standin()
	if err != nil {
		return nil, err
	}
	module, err := guests.Read("go.wasm")
	if err != nil {
		return nil, err
	}
	native, err := guests.Read("go.native")
	if err != nil {
		return nil, err
	}

	base := files{
		"etc/passwd": {Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")},
		"etc/group":  {Mode: 0o644, Data: []byte("root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n")},
		"home/":      {Mode: 0o755}, "root/": {Mode: 0o700}, "tmp/": {Mode: 0o1777}, "usr/bin/": {Mode: 0o755}, "var/run/": {Mode: 0o755}, "var/www/": {Mode: 0o755},
		"bin/busybox": {Data: busybox}, "bin/standin": {Data: standin}, "usr/sbin/nginx": {Link: "/bin/standin"},
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			base["bin/"+applet] = harness.File{Link: "busybox"}
		}
	}
	for _, name := range []string{"pgrep", "ipcs", "grpc", "web"} {
		base["bin/"+name] = harness.File{Link: "standin"}
	}
	if kind == guestTop {
		if base["bin/top"], err = waiting(); err != nil {
			return nil, err
		}
	}

	var archives [][]byte
	var failed error
	add := func(name string, v harness.Variant, err error) {
		archive, archiveErr := harness.Archive("any.invalid/"+name, v)
		archives = append(archives, archive)
		for _, err := range []error{err, archiveErr} {
			if err != nil && failed == nil {
				failed = fmt.Errorf("make image %s: %w", name, err)
			}
		}
	}
	linux := func(name string, config ocispec.ImageConfig, layers ...files) {
		config.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		v, err := harness.Linux(config, layers...)
		add(name, v, err)
	}
	shell := ocispec.ImageConfig{Cmd: []string{"sh"}}
	user := func(user string) ocispec.ImageConfig { return ocispec.ImageConfig{Cmd: shell.Cmd, User: user} }
	web := func(port string) ocispec.ImageConfig {
		return ocispec.ImageConfig{Cmd: []string{"/usr/sbin/nginx", port}}
	}
	mark := func(name string) files { return files{"mark-" + name: {Mode: 0o644}} }

	for _, version := range []string{"3.9", "3.10"} { // critest pulls one that must not be the sandboxes' own
		linux("pause:"+version, ocispec.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535", Labels: map[string]string{"version": version}}, files{"pause": {Data: standin}})
	}
	linux("e2e-test-images/busybox:1.29-2", shell, base)
	linux("library/busybox:latest", shell, base)
	linux("e2e-test-images/nginx:1.14-2", web("80"), base)
	linux("e2e-test-images/httpd:2.4.39-4", web("80"), base)
	linux("e2e-test-images/nonewprivs:1.3", ocispec.ImageConfig{Cmd: []string{"/nnp"}}, base, files{"nnp": {Data: standin, Mode: 0o4755}})
	const cri = "k8s-staging-cri-tools/"
	linux(cri+"hostnet-nginx-amd64:latest", web("12003"), base)
	linux(cri+"test-image-user-uid:latest", user("1002"), base)
	linux(cri+"test-image-user-username:latest", user("www-data"), base)
	linux(cri+"test-image-user-uid-group:latest", user("1003:1004"), base)
	linux(cri+"test-image-user-username-group:latest", user("www-data:1004"), base)
	linux(cri+"test-image-predefined-group:latest", user("1000"), base, files{
		"etc/passwd": {Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/default-user:/bin/sh\n")},
		"etc/group":  {Mode: 0o644, Data: []byte("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")},
	})
	for _, name := range []string{"latest:latest", "digest:latest", "1:latest", "2:latest", "3:latest", "tag:test", "tag:all"} {
		linux(cri+"test-image-"+name, shell, base, mark(strings.ReplaceAll(name, ":", "-")))
	}
	for _, tag := range []string{"1", "2", "3"} {
		linux(cri+"test-image-tags:"+tag, shell, base, mark("same"))
	}

	// The same program for WebAssembly and for this machine, beside a shell.
	app := ocispec.ImageConfig{Entrypoint: []string{"/app"}}
	linux("guest/app:v1", app, base, files{"app": {Data: module}})
	linux("native/app:v1", app, base, files{"app": {Data: native}})
	v2, v2Err := guests.Named("go.wasm", "v2")
	failed = errors.Join(failed, v2Err)
	linux("guest/app:v2", app, base, files{"app": {Data: v2}}, mark("v2"))
	linux("native/app:v2", app, base, files{"app": {Data: native}}, mark("v2"))
	// And as Wasm images have it: a layer that is the module.
	add("guest/layer:v1", harness.Layered(module), nil)
	linux("native/layer:v1", ocispec.ImageConfig{Entrypoint: []string{"/app"}}, files{"app": {Data: native}})
	return archives, failed
}

// waiting is a guest that waits.
func waiting() (harness.File, error) {
	module, err := guests.Read("sleep.wasm")
	return harness.File{Data: module}, err
}
