build {
  name    = "ami"
  sources = ["source.amazon-ebs.image"]

  # Waits for cloud-init, which may hold the package manager's lock. Exit code 2: done with warnings.
  provisioner "shell" {
    inline           = ["if command -v cloud-init >/dev/null; then sudo cloud-init status --wait >/dev/null; fi"]
    valid_exit_codes = [0, 2]
  }

  # A recent base image may have empty package lists that look up to date.
  provisioner "shell" {
    inline = ["if command -v apt-get >/dev/null; then sudo apt-get update --quiet=2; fi"]
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
