package ssetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Volume is a file system of its own, which can be frozen: whoever writes to it
// waits until it is thawed, as if the disk had stopped answering. One goroutine
// at a time may use it.
type Volume struct {
	Dir string // where it is mounted

	freezer *exec.Cmd // while it is frozen
	thaw    io.Closer // the input of freezer
}

// volumeSize is the size of a Volume, in bytes.
const volumeSize = 64 << 20

// MountVolume makes an empty file system in a folder, and mounts it there.
// Unmount has to be called. The error is an errors.ErrUnsupported where that is
// not possible: it takes root, some tools, and a kernel that allows it.
func MountVolume(folder string) (*Volume, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("mounting a file system: %w: only root can", errors.ErrUnsupported)
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount", "fsfreeze", "timeout"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("mounting a file system: %w: %w", errors.ErrUnsupported, err)
		}
	}
	image := filepath.Join(folder, "image")
	v := &Volume{Dir: filepath.Join(folder, "volume")}
	if err := os.Mkdir(v.Dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(volumeSize), f.Close()); err != nil {
		return nil, err
	}
	if err := command("mkfs.ext4", "-q", "-F", image); err != nil {
		return nil, err
	}
	if err := command("mount", "-o", "loop", image, v.Dir); err != nil {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return v, nil
}

// freezing is the script of the process that freezes a volume, and thaws it at
// the end of its input. It also thaws it after a minute, and fails then: a
// process that waits for the volume may be the one that was to thaw it.
const freezing = `
fsfreeze --freeze "$0" || exit
echo frozen
timeout 60 cat >/dev/null
told=$?
fsfreeze --unfreeze "$0" && exit $told
`

// Freeze returns when the volume is frozen.
func (v *Volume) Freeze() error {
	freezer := exec.Command("sh", "-c", freezing, v.Dir)
	freezer.Stderr = os.Stderr
	in, err := freezer.StdinPipe()
	if err != nil {
		return err
	}
	out, err := freezer.StdoutPipe()
	if err != nil {
		return err
	}
	if err := freezer.Start(); err != nil {
		return fmt.Errorf("freezing %s: %w", v.Dir, err)
	}
	v.freezer, v.thaw = freezer, in
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("freezing %s: it is %q: %w", v.Dir, line, err)
	}
	return nil
}

// Thaw returns when the volume is thawed; at once if it was not frozen. The error
// is also that it had been frozen for a minute, and was thawed before.
func (v *Volume) Thaw() error {
	if v.freezer == nil {
		return nil
	}
	_ = v.thaw.Close() // it is what ends the wait of the freezer
	err := v.freezer.Wait()
	v.freezer = nil
	if err != nil {
		return fmt.Errorf("thawing %s, unless it was thawed after a minute: %w", v.Dir, err)
	}
	return nil
}

// Unmount thaws the volume if need be, and unmounts it. Nobody may have a file
// of it open.
func (v *Volume) Unmount() error { return errors.Join(v.Thaw(), command("umount", v.Dir)) }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
