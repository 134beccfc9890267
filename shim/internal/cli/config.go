// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/template"

	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// config prints what has to stand in containerd's configuration.
func (p Program) config() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "print containerd's configuration for this runtime, or its RuntimeClass",
		UsageText: `config > /etc/containerd/conf.d/` + p.ShimName + `.toml       # containerd 2.2 and later; and restart it
config >> /etc/containerd/config.toml                      # containerd 2.0 and 2.1, which read no conf.d
config --config-version 2 >> /etc/containerd/config.toml   # containerd 1.6 and 1.7
config --runtime-class | kubectl apply -f -`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "config-version", Value: 3, Usage: "version of containerd's configuration: 3 for containerd 2.x, 2 for 1.6 and 1.7"},
			&cli.BoolFlag{Name: "runtime-class", Usage: "print the RuntimeClass for Kubernetes instead"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &usageError{fmt.Sprintf("config takes no arguments, found %q", c.Args().First())}
			}
			if c.Bool("runtime-class") {
				_, err := fmt.Fprintf(c.App.Writer, "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: %[1]s\nhandler: %[1]s\n", p.ShimName)
				return err
			}
			return p.printConfig(c.App.Writer, c.Int("config-version"))
		},
	}
}

func (p Program) printConfig(out io.Writer, version int) error {
	plugin, ok := map[int]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}[version]
	if !ok {
		return &usageError{fmt.Sprintf("--config-version: found %d, accepted: 2 (containerd 1.6, 1.7), 3 (containerd 2.x)", version)}
	}
	return configText().Execute(out, map[string]any{
		"Version": version, "Plugin": plugin, "Shim": p.ShimName, "Runtime": p.runtime(), "Prefix": options.AnnotationPrefix,
		"Options": append([]options.Declaration{options.Preopens}, p.Options...), "Arch": runtime.GOARCH,
	})
}

// example is a value that an option takes, for a comment.
func example(d options.Declaration) string {
	switch d.Type {
	case options.Boolean:
		return "true"
	case options.Integer:
		return "1000000000"
	case options.Size:
		return `"64MiB"`
	case options.Duration:
		return `"30s"`
	case options.Choice:
		return fmt.Sprintf("%q", d.Choices[0])
	}
	if d.Key == options.Preopens.Key {
		return `["/data", "/in:/out"]`
	}
	return `"..."`
}

func help(d options.Declaration) string {
	if d.Type == options.Choice {
		return strings.TrimPrefix(d.Help+"; one of: "+strings.Join(d.Choices, ", "), "; ")
	}
	return d.Help
}

// configText is parsed when it is needed: a daemon never does.
func configText() *template.Template {
	return template.Must(template.New("config").Funcs(template.FuncMap{"example": example, "help": help}).Parse(
		`version = {{.Version}}

[plugins.'{{.Plugin}}'.containerd.runtimes.{{.Shim}}]
  runtime_type = '{{.Runtime}}'
  # Annotations reach the shim only where they are named here; which of them
  # count is what allow_annotations below says.
  pod_annotations = ['{{.Prefix}}*']
  container_annotations = ['{{.Prefix}}*']
{{- if eq .Version 3}}
  # Pods without a pause container, with containerd 2.3 and later: the shim itself holds what a
  # pod's containers share. Before, containerd panics on such a pod in the host's network.
  # The second line, which containerd knows since 2.4, saves the pull of an image that nobody needs.
  # sandboxer = 'shim'
  # disable_pause_image_pull = true
{{- end}}

  [plugins.'{{.Plugin}}'.containerd.runtimes.{{.Shim}}.options]
    # How much the shim logs: error, warn, info, debug, trace.
    # log_level = 'info'
    # How long compiling ahead may take, on a processor, and how much memory; '0s' compiles
    # nothing ahead.
    # compile_timeout = '60s'
    # compile_memory = '2GiB'
    # How many compilers may run at once on this node, by default one for two CPUs, and
    # the cgroup that they are in, a path or a systemd slice.
    # compilers = 1
    # compile_cgroup = '/compilers'
    # Who serves a pod: a daemon of its own (pod), or one for up to daemon_pods pods (node).
    # daemon = 'pod'
    # daemon_pods = 64
    # What a guest sees of /proc: auto, hidden, readonly, full.
    # guest_proc = 'auto'
    # Engine options that annotations {{.Prefix}}KEY may set.
    # allow_annotations = []
{{- if eq .Version 2}}
    # containerd 1.6 hands on no table but the path of a file that has it:
    # ConfigPath = '/etc/containerd/{{.Shim}}.toml'
{{- end}}

    [plugins.'{{.Plugin}}'.containerd.runtimes.{{.Shim}}.options.engine]
{{- range .Options}}
      # {{help .}}
      # {{.Key}} = {{example .}}
{{- end}}
{{if eq .Version 3}}
# CRI pulls images for the node's platform: of an index the entry for linux, and no index
# without one. A Wasm image of one manifest is pulled, too. The runtime_platforms of
# containerd up to 2.4 change nothing of that.

# The Transfer Service unpacks the platforms in this list, and no other.
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = 'linux/{{.Arch}}'
  snapshotter = 'overlayfs'
  differ = 'walking'

[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
  platform = 'wasi/wasm'
  snapshotter = 'overlayfs'
  differ = 'walking'
{{end}}`))
}
