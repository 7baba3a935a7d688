"""Rules of `builder lint`: each rule has a finding in its bad example and none in the corrected example."""

from pathlib import PurePosixPath

import pytest

from builder.lint.defects import DEFECTS
from builder.lint.files import File, Tree, kind_of
from builder.lint.rules import RULES, check

FROM = "FROM debian:12\n"
NGC = "FROM nvcr.io/nvidia/pytorch:25.06-py3\n"
JOB = "#!/bin/bash\n#SBATCH --nodes=2\n"
POD = "apiVersion: v1\nkind: Pod\n"
EFA = "https://efa-installer.amazonaws.com/aws-efa-installer-1.50.0.tar.gz"
HF = "hf_" + "a1B2" * 9
SUM = " && echo '0  f' | sha256sum -c"

Files = dict[str, str]


def one(name: str, text: str) -> Files:
    return {name: text}


def dockerfile(text: str, base: str = FROM) -> Files:
    return {"Dockerfile": base + text}


def job(text: str) -> Files:
    return {"train.sbatch": JOB + text}


def pod(text: str) -> Files:
    return {"pod.yaml": POD + text}


# Rule → (files with a finding, line of the finding, corrected files).
EXAMPLES: dict[str, list[tuple[Files, int, Files]]] = {
    "floating-tag": [
        (
            one("Dockerfile", "FROM pytorch/pytorch:latest\n"),
            1,
            one("Dockerfile", "FROM pytorch/pytorch:2.13.0\n"),
        ),
        (one("Dockerfile", "FROM ubuntu\n"), 1, one("Dockerfile", "FROM scratch\n")),
        (
            one("a.Dockerfile", "ARG TAG=2.7.0_aws-latest\nFROM llm-foundry:${TAG}\n"),
            2,
            one("a.Dockerfile", "ARG PARENT\nFROM ${PARENT} AS base\nFROM base\nCOPY --from=base /a /a\n"),
        ),
        (pod("  - image: fsdp:latest\n"), 3, pod("  - image: ${REGISTRY}fsdp:${TAG}\n")),
        (
            job("enroot import -o a.sqsh dockerd://trainer:latest\n"),
            3,
            job("enroot import -o a.sqsh dockerd://trainer:1.2\n"),
        ),
    ],
    "registry-account": [
        (
            pod("    image: 159553542840.dkr.ecr.us-west-2.amazonaws.com/fsdp:1\n"),
            3,
            pod("    image: 123456789012.dkr.ecr.us-west-2.amazonaws.com/fsdp:1\n"),
        ),
        (
            one("Dockerfile", "FROM 763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.9.0\n"),
            1,
            one("Dockerfile", "ARG REGISTRY\nFROM ${REGISTRY}/pytorch-training:2.9.0\n"),
        ),
    ],
    "ended-base": [
        (
            one("Dockerfile", "FROM nvcr.io/nvidia/clara/bionemo-framework:1.2\n"),
            1,
            one("Dockerfile", "FROM nvcr.io/nvidia/clara/bionemo-framework:2.5\n"),
        ),
        (
            one("Dockerfile", "FROM nvcr.io/nvidia/pytorch:23.08-py3\n"),
            1,
            one("Dockerfile", "FROM nvcr.io/nvidia/pytorch:25.06-py3\n"),
        ),
        (
            one("Dockerfile", "FROM neuronx:2.1.2-sdk2.20.0-ubuntu20.04-v1.0\n"),
            1,
            one("Dockerfile", "FROM neuronx:2.9.0-sdk2.28.0-ubuntu24.04\n"),
        ),
    ],
    "spcx-plugin": [
        (
            one("Dockerfile", "FROM nvcr.io/nvidia/pytorch:26.07-py3\n"),
            1,
            one("Dockerfile", "FROM nvcr.io/nvidia/pytorch:26.07-py3\nENV NCCL_NET_PLUGIN=ofi\n"),
        ),
        (job("export NCCL_NET_PLUGIN=spcx\n"), 3, job("export NCCL_NET_PLUGIN=ofi\n")),
    ],
    "unquoted-constraint": [
        (
            dockerfile("RUN pip3 install a==1 \\\n  && pip3 install --upgrade huggingface_hub>=0.34.0\n"),
            3,
            dockerfile("RUN pip3 install 'huggingface_hub>=0.34.0' \"vllm>0.7\" 2>/dev/null >log\n"),
        ),
        (job("pip install vllm<0.9 torch\n"), 3, job('pip install "vllm<0.9" torch > log\n')),
    ],
    "unpinned-source": [
        (
            dockerfile("RUN git clone https://example.org/picotron && cd picotron && pip install -e .\n"),
            2,
            dockerfile("RUN git clone https://example.org/p && cd p && git checkout 59714b1bf255\n"),
        ),
        (
            dockerfile("RUN pip install git+https://example.org/xformers.git@main#egg=xformers\n"),
            2,
            dockerfile("RUN pip install git+https://example.org/xformers.git@v0.0.30#egg=xformers\n"),
        ),
        (
            dockerfile("RUN git clone -b main https://example.org/a.git /a\n"),
            2,
            dockerfile("RUN git clone -b ${VERSION} https://example.org/a.git /a\n"),
        ),
    ],
    "moving-download": [
        (
            job("wget -q https://repo.anaconda.com/miniconda/Miniconda3-latest-Linux-x86_64.sh\n"),
            3,
            job("wget -q https://repo.anaconda.com/miniconda/Miniconda3-py312_25.1.1-2-Linux-x86_64.sh\n"),
        ),
        (
            job("pip install --pre torch --index-url https://download.pytorch.org/whl/nightly/cu124\n"),
            3,
            job("pip install torch==2.13.0\n"),
        ),
        (
            dockerfile("ARG EFA_INSTALLER_VERSION=latest\n"),
            2,
            dockerfile("ARG EFA_INSTALLER_VERSION=1.50.0\n"),
        ),
    ],
    "unverified-packages": [
        (
            dockerfile("RUN apt-get install -y --allow-unauthenticated git\n"),
            2,
            dockerfile("RUN apt-get install -y git\n"),
        ),
        (
            dockerfile("RUN wget -qO - https://example.org/KEY.PUB | apt-key add -\n"),
            2,
            dockerfile("RUN wget -qO /etc/apt/keyrings/neuron.asc https://example.org/KEY.PUB\n"),
        ),
    ],
    "driver-in-image": [
        (
            dockerfile("RUN apt-get install aws-neuronx-dkms=2.* -y\n"),
            2,
            dockerfile("RUN apt-get install aws-neuronx-tools=2.20.204.0 -y\n"),
        )
    ],
    "third-party-archive": [
        (
            dockerfile("RUN add-apt-repository ppa:deadsnakes/ppa\n"),
            2,
            dockerfile("RUN apt-get install -y python3\n"),
        )
    ],
    "extra-index": [
        (
            dockerfile("RUN python -m pip config set global.extra-index-url https://pip.repos.example.org\n"),
            2,
            dockerfile("RUN pip install --index-url https://pip.repos.example.org neuronx-cc==2.16.372.0\n"),
        ),
        (
            dockerfile("RUN pip install --extra-index-url https://pip.repos.example.org torch-neuronx\n"),
            2,
            dockerfile(
                "RUN pip install --extra-index-url https://pip.repos.example.org torch-neuronx==2.1\n"
            ),
        ),
    ],
    "legacy-extra": [
        (
            dockerfile('RUN pip install --upgrade "jax[cuda12_pip]==${JAX_VERSION}"\n'),
            2,
            dockerfile('RUN pip install --upgrade "jax[cuda12]==${JAX_VERSION}"\n'),
        )
    ],
    "installed-twice": [
        (
            dockerfile("RUN pip install protobuf==3.20.3\nRUN pip3 install protobuf==3.19.6\n"),
            3,
            dockerfile("RUN pip install protobuf==3.20.3\nRUN pip3 install protobuf==3.20.3\n"),
        )
    ],
    "wheel-of-other-torch": [
        (
            dockerfile(
                "RUN pip install torch==2.8.0\nRUN pip install flash_attn-2.7.4+cu12torch2.6cxx11-cp310.whl\n"
            ),
            3,
            dockerfile("RUN pip install torch==2.6.0 flash_attn-2.7.4+cu12torch2.6cxx11-cp310.whl\n"),
        )
    ],
    "vendor-upgrade": [
        (
            dockerfile("RUN apt-get update -y && apt-get upgrade -y\n", NGC),
            2,
            dockerfile("RUN apt-get update -y && apt-get install --upgrade -y git\n", NGC),
        )
    ],
    "left-over": [
        (
            dockerfile(
                f"RUN cd $HOME && curl -O {EFA} && tar -xf aws-efa-installer-1.50.0.tar.gz \\\n"
                f" && rm -rf $HOME/aws-efa-installer{SUM}\n"
            ),
            2,
            dockerfile(
                f"RUN cd /tmp && curl -O {EFA} && tar -xf aws-efa-installer-1.50.0.tar.gz{SUM} \\\n"
                " && rm -rf /tmp/aws-efa-installer*\n"
            ),
        ),
        (
            dockerfile(
                f"RUN curl -o /tmp/efa.tar.gz {EFA}{SUM} \\\n && tar -xf /tmp/efa.tar.gz && rm"
                " /tmp/efa.tar.gz \\\n"
                " && tar -xf aws-efa-installer.tar && ./efa_installer.sh\n"
            ),
            4,
            dockerfile(f"RUN curl {EFA} | tar -xz --to-stdout > /dev/null{SUM}\n"),
        ),
    ],
    "mistyped-cleanup": [
        (
            dockerfile("RUN cd /tmp/aws-ofi-nccl && make install && \\\n    rm -rf /tmp/aws-ofi/nccl\n"),
            3,
            dockerfile("RUN cd /tmp/aws-ofi-nccl && make install && rm -rf /tmp/aws-ofi-nccl /opt/hpcx\n"),
        )
    ],
    "unverified-download": [
        (
            dockerfile(f"RUN curl -O {EFA} && rm aws-efa-installer-1.50.0.tar.gz\n"),
            2,
            dockerfile(f"RUN curl -O {EFA}{SUM} && rm aws-efa-installer-1.50.0.tar.gz\n"),
        ),
        (
            dockerfile("RUN curl https://sh.rustup.rs -sSf | sh -s -- -y\n"),
            2,
            dockerfile("ADD --checksum=sha256:0 https://example.org/a /a\n"),
        ),
        (dockerfile("ADD https://example.org/a /a\n"), 2, dockerfile("ADD a /a\n")),
    ],
    "ssh-key-in-image": [
        (
            dockerfile("RUN mkdir -p /root/.ssh && ssh-keygen -q -t rsa -N '' -f /root/.ssh/id_rsa\n"),
            2,
            dockerfile("RUN apt-get install -y openssh-server\n"),
        ),
        (dockerfile("COPY id_rsa /root/.ssh/\n"), 2, dockerfile("COPY id_rsa.pub /root/.ssh/\n")),
    ],
    "secret-argument": [
        (
            dockerfile("ARG HF_TOKEN\n"),
            2,
            dockerfile(
                "ARG TOKENIZER=a\nENV MAX_TOKENS=1\nRUN --mount=type=secret,id=hf cat /run/secrets/hf\n"
            ),
        )
    ],
    "nccl-removed": [
        (
            dockerfile(
                "RUN apt-get remove -y --allow-change-held-packages \\\n    libnccl2 \\\n    libnccl-dev\n"
            ),
            2,
            dockerfile("RUN apt-get remove -y libnccl2 && cd nccl && make -j src.build BUILDDIR=/usr\n"),
        )
    ],
    "gencode-syntax": [
        (
            dockerfile('RUN make NVCC_GENCODE="-gencode=arch=a,code=sm_90, -gencode=arch=b,code=sm_80"\n'),
            2,
            dockerfile('RUN make NVCC_GENCODE="-gencode=arch=a,code=sm_90 -gencode=arch=b,code=sm_80"\n'),
        )
    ],
    "platform-aws": [
        (
            dockerfile("RUN cd /opt/aws-ofi-nccl && ./configure --with-libfabric=/opt/amazon/efa\n"),
            2,
            dockerfile(
                "RUN cd /opt/aws-ofi-nccl && ./configure --with-libfabric=/opt/amazon/efa"
                " --enable-platform-aws\n"
            ),
        )
    ],
    "nccl-folder": [
        (
            dockerfile(
                "RUN make src.build BUILDDIR=/usr/local\nRUN ./configure --with-nccl=/usr/local/nccl\n"
            ),
            3,
            dockerfile("RUN cd /opt/nccl && make src.build\nRUN ./configure --with-nccl=/opt/nccl/build\n"),
        )
    ],
    "no-instruction": [
        (
            one("Dockerfile.llama2", 'apiVersion: "kubeflow.org/v1"\nkind: PyTorchJob\nFROM debian:12\n'),
            1,
            dockerfile("RUN <<EOF\nset -e\napiVersion: this is shell\nEOF\nfrom debian:13\n"),
        )
    ],
    "text-after-value": [
        (
            dockerfile("ARG OPEN_MPI_PATH=/opt/amazon/openmpi    # Open MPI of EFA\n"),
            2,
            dockerfile(
                '# Open MPI of EFA\nARG OPEN_MPI_PATH=/opt/amazon/openmpi\nENV A="b # c"\nRUN a # b\n'
            ),
        )
    ],
    "preload": [
        (
            job("export LD_PRELOAD=/usr/local/cuda-12.8/lib/libnccl.so\n"),
            3,
            job("# export LD_PRELOAD=/usr/lib/libnccl.so\nexport LD_PRELOAD=/usr/lib/libtcmalloc.so\n"),
        ),
        (dockerfile("ENV LD_PRELOAD /opt/nccl/build/lib/libnccl.so\n"), 2, dockerfile("ENV LD_PRELOAD=\n")),
    ],
    "plugin-path": [
        (
            pod(
                "  - name: NCCL_TUNER_PLUGIN\n    value: /opt/aws-ofi-nccl/install/lib/libnccl-ofi-tuner.so\n"
            ),
            4,
            pod("  - name: NCCL_TUNER_PLUGIN\n    value: ofi\n"),
        ),
        (
            dockerfile("ENV LD_LIBRARY_PATH=/opt/aws-ofi-nccl/install/lib:$LD_LIBRARY_PATH\n"),
            2,
            dockerfile(
                "ENV LD_LIBRARY_PATH=/opt/aws-ofi-nccl/install/lib\nRUN a"
                " --prefix=/opt/aws-ofi-nccl/install\n"
            ),
        ),
    ],
    "override": [
        (
            pod("  - name: NCCL_NET_GDR_LEVEL\n    value: LOC\n"),
            4,
            pod("  - name: NCCL_DEBUG\n    value: INFO\n"),
        ),
        (job("export NCCL_PROTO=simple\n"), 3, job("export NCCL_NET_GDR_LEVEL=PHB\n")),
    ],
    "gpu-variable": [
        (
            pod("  - name: NCCL_DEBUG\n    value: INFO\n    aws.amazon.com/neuron: 16\n"),
            4,
            pod("  - name: NEURON_RT_NUM_CORES\n    value: '32'\n    aws.amazon.com/neuron: 16\n"),
        )
    ],
    "misspelt-variable": [
        (
            pod("  - --dataset_config_name=${dATASET_CONFIG_NAME}\n"),
            3,
            pod("  - --dataset_config_name=${DATASET_CONFIG_NAME}\n"),
        )
    ],
    "stray-brace": [
        (job("mkdir -p ${RESULTS_PATH}}\n"), 3, job('mkdir -p "${A:-${B}}" && echo "{\\"a\\": ${B}}"\n'))
    ],
    "no-dollar": [
        (
            pod("    image: ${REGISTRY}${NAME}:{TAG}\n"),
            3,
            pod("    image: ${REGISTRY}${NAME}:${TAG}\n    args: ['{A_B}']\n"),
        )
    ],
    "literal-token": [
        (
            pod(f"  - name: HF_TOKEN\n    value: {HF}\n"),
            4,
            pod("  - name: HF_TOKEN\n    value: hf_example\n"),
        ),
        (one("a.py", f"TOKEN = '{HF}'\n"), 1, one("a.py", "TOKEN = environ['HF_TOKEN']\n")),
    ],
    "token-option": [
        (
            job("python get_model.py --hf_access_token $HF_TOKEN\n"),
            3,
            job("python get_model.py --tokenizer $A --max-tokens 2048 --token-file $B\n"),
        )
    ],
    "unset-variable": [
        (
            job("if [ $NODES -le 4 ]; then\n"),
            3,
            job('NODES=( $( scontrol show hosts ) )\necho ${NODES[0]} "${NNODES:-2}" $SLURM_JOB_NUM_NODES\n'),
        )
    ],
    "fixed-rank": [
        (
            job("accelerate launch --num_machines=$N --machine_rank=0 train.py\n"),
            3,
            job("accelerate launch --num_machines=$N --machine_rank=$SLURM_NODEID train.py\n"),
        )
    ],
    "unknown-option": [
        (
            {**job("srun ddp.py --use-mlflow\n"), "ddp.py": "p.add_argument('--use_mlflow')\n"},
            3,
            {**job("srun ddp.py --use_mlflow --x-y\n"), "ddp.py": "p.add_argument('-m', '--use_mlflow')\n"},
        )
    ],
    "image-name": [
        (
            {"README.md": "docker build -t megatron .\nenroot import -o a.sqsh dockerd://megatro:1\n"},
            2,
            {"README.md": "docker build -t megatron:1 .\nenroot import -o a.sqsh dockerd://megatron:1\n"},
        ),
        (
            {
                "slurm/Makefile": "IMAGE=aws-megatron-lm\n\tenroot import -o ${IMAGE}.sqsh"
                " dockerd://${IMAGE}:1\n",
                "slurm/gpt3/a.sbatch": f'{JOB}: "${{IMAGE:=$(pwd)/megatron-training.sqsh}}"\n',
            },
            3,
            {
                "slurm/Makefile": "\tenroot import -o megatron.sqsh dockerd://megatron:1\n",
                "slurm/gpt3/a.sbatch": f'{JOB}: "${{IMAGE:=$(pwd)/megatron.sqsh}}"\n',
                "other/Makefile": "\tenroot import -o other.sqsh dockerd://other:1\n",
            },
        ),
    ],
    "missing-file": [
        (
            {"README.md": "```\nsbatch nccl-tests.sbatch\n```\n", "slurm/nccl-tests-ami.sbatch": JOB},
            2,
            {
                "README.md": "sbatch -N 4 slurm/a.sbatch\ncp b.sbatch c.sbatch\nsbatch c.sbatch\nsbatch"
                " $X.sh\n"
                "sbatch --job-name=a --output=a.out \\\n",
                "slurm/a.sbatch": JOB,
            },
        )
    ],
    "mount-before-value": [
        (
            job(': "${FSX_MOUNT:=$DATA_PATH:$DATA_PATH}"\nDATA_PATH=/fsx/processed\n'),
            4,
            job('DATA_PATH=/fsx/processed\n: "${FSX_MOUNT:=$DATA_PATH:$DATA_PATH}"\n'),
        )
    ],
    "versions-differ": [
        (
            {
                "nemo/Dockerfile": f"{FROM}ARG EFA_INSTALLER_VERSION=1.47.0\n",
                "nemo/kubernetes/Dockerfile": f"{FROM}ARG EFA_INSTALLER_VERSION=1.37.0\n",
            },
            2,
            {
                "a/Dockerfile": f"{FROM}ARG EFA_INSTALLER_VERSION=1.47.0\n",
                "b/Dockerfile": f"{FROM}ARG EFA_INSTALLER_VERSION=1.37.0\n",
            },
        )
    ],
    "claims-differ": [
        (
            {
                "a.yaml": "claimName: fsx-claim\n",
                "b.yaml": "claimName: fsx-claim\n",
                "c.yaml": "claimName: fsx-pvc\n",
            },
            1,
            {
                "a.yaml": "claimName: fsx-claim\n",
                "b.yaml": "claimName: fsx-claim\n",
                "c.yaml": "kind: PersistentVolumeClaim\nmetadata:\n  name: fsx-pvc\n---\nclaimName:"
                " fsx-pvc\n",
            },
        )
    ],
    "empty-limit": [(pod("      nvidia.com/gpu:\n"), 3, pod("      nvidia.com/gpu: 8\n"))],
    "metric-name": [
        (
            pod("      resource:\n        name: cpuyeah\n"),
            4,
            pod("      resource:\n        name: cpu\n"),
        )
    ],
    "fixed-replicas": [
        (
            pod("    Worker:\n      replicas: 1\n      args: --nnodes=$NUM_NODES\n"),
            4,
            pod("    Worker:\n      replicas: $NUM_NODES\n      args: --nnodes=$NUM_NODES\n"),
        )
    ],
    "person-path": [
        (job("source /home/mkiely/env/bin/activate\n"), 3, job("source /home/ubuntu/env/bin/activate\n"))
    ],
}


def tree(files: Files) -> Tree:
    return Tree(
        tuple(File(PurePosixPath(name), kind_of(PurePosixPath(name)), text) for name, text in files.items())
    )


def found(files: Files, rule: str) -> list[int]:
    return sorted({finding.line for finding in check(tree(files)) if finding.rule.id == rule})


@pytest.mark.parametrize(
    ("rule", "bad", "line", "good"),
    [(rule, *example) for rule, examples in EXAMPLES.items() for example in examples],
)
def test_rule_finds_its_bad_example_but_not_the_corrected_example(
    rule: str, bad: Files, line: int, good: Files
) -> None:
    assert found(bad, rule) == [line]
    assert found(good, rule) == []


def test_every_rule_has_an_example_and_ids_are_unique() -> None:
    ids = [rule.id for rule in RULES]
    assert sorted(ids) == sorted(EXAMPLES)
    assert len(set(ids)) == len(ids)


def test_every_known_defect_names_lint_rules_or_why_no_rule_finds_it() -> None:
    ids = {rule.id for rule in RULES}
    assert [defect.number for defect in DEFECTS] == list(range(1, 25))
    assert {rule for defect in DEFECTS for rule in defect.rules} <= ids
    assert [defect.number for defect in DEFECTS if not (defect.rules or defect.rest)] == []
