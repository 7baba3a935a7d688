build {
  name    = "ami"
  sources = ["source.amazon-ebs.image"]

  # A package manager that cloud-init still uses is locked; 2 is its code for "done, with warnings".
  provisioner "shell" {
    inline           = ["if command -v cloud-init >/dev/null; then sudo cloud-init status --wait >/dev/null; fi"]
    valid_exit_codes = [0, 2]
  }

  # An image that was made today has package lists that look fresh and are empty.
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
