build {
  name    = "ami"
  sources = ["source.amazon-ebs.image"]

  # Waits for cloud-init, which may hold the package manager's lock. Exit code 2: done with warnings.
  provisioner "shell" {
    inline           = ["if command -v cloud-init >/dev/null; then sudo cloud-init status --wait >/dev/null; fi"]
    valid_exit_codes = [0, 2]
  }

  # A recent base image may have empty package lists that look up to date. The timer apt-daily starts at the first boot
  # and holds the lock of the lists, for which apt-get does not wait.
  provisioner "shell" {
    inline = [
      "command -v apt-get >/dev/null || exit 0",
      "for attempt in 1 2 3 4 5 6 7 8 9 10 11 12; do",
      "  output=$(sudo LC_ALL=C apt-get update --quiet=2 2>&1) && exit 0",
      "  echo \"$output\"",
      "  case $output in *'Could not get lock'*) sleep 10 ;; *) exit 1 ;; esac",
      "done",
      "exit 1",
    ]
  }

  provisioner "ansible" {
    command            = var.ansible.command
    playbook_file      = var.ansible.playbook
    user               = var.ssh.user
    use_proxy          = false
    host_alias         = "image"
    extra_arguments    = ["--extra-vars=@${var.ansible.variables_file}"]
    skip_version_check = true
  }

  post-processor "manifest" {
    output      = var.manifest
    custom_data = { run = var.run }
  }
}
