from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import DOMAIN_VOLUMES_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.volumes import DomainVolumesService


def main() -> None:
    run_module(DOMAIN_VOLUMES_SPEC, DomainVolumesService)


if __name__ == "__main__":
    main()
